#!/bin/bash
# Starts TensorFlow Serving in place of itself. Arguments are flags of the server, and win over these.
set -eu
: "${MODEL_NAME:?must be the name of the folder of the model in /models}"
exec tensorflow_model_server \
  --port=8500 \
  --rest_api_port=8501 \
  --model_name="$MODEL_NAME" \
  --model_base_path="/models/$MODEL_NAME" \
  --prefer_tflite_model="$PREFER_TFLITE" \
  --monitoring_config_file=/etc/model-server/monitoring.config \
  --enable_batching=true \
  --batching_parameters_file=/etc/model-server/batching.config \
  --enable_grpc_healthcheck_service=true \
  --enable_profiler=false \
  --grpc_max_threads=256 \
  --rest_api_num_threads=64 \
  "$@"
