"""Names of files and signatures that the pipeline writes and that model servers look for."""

from __future__ import annotations

# Files of a version, with TensorFlow Serving's names.
SAVED_MODEL = "saved_model.pb"
TFLITE_MODEL = "model.tflite"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

# The default signature of a request.
DEFAULT_SIGNATURE = "serving_default"

# The signature that takes the raw features, one tensor each.
RAW_SIGNATURE = "raw_features"

# Method names of signatures of a SavedModel.
PREDICT_METHOD = "tensorflow/serving/predict"

# The folder of provenance next to the versions of a model, and its files by version.
PROVENANCE = ".flightdeck"
PROVENANCE_FILE = "provenance.json"
TRAINING_STATISTICS = "training_statistics.pb"
CARD_FILE = "card.json"
CARD_TEXT = "card.md"
# Rows that a server explains predictions with.
BACKGROUND_FILE = "background.json"
SIGNATURE_FILE = "model.sig"
# Says which version was signed and when; it is signed with the version.
STATEMENT_FILE = "signed.json"

# What it holds of the model.
LABELS_FILE = "labels.json"
WITHDRAWN_FILE = "withdrawn"
ROLLED_BACK = "rolled_back"
LOCK_FILE = "lock"
TRAFFIC_FILE = "traffic.json"

# Labels of the two versions that share the traffic of a model, and their roles in the request log.
CHAMPION = "champion"
CHALLENGER = "challenger"

# The request log: a folder for each model, and in a row what the server adds to the features.
# A file that is still being written, or was when its server died, has another ending.
REQUEST_LOG_SUFFIX = ".tfrecord.gz"
PREDICTION_PREFIX = "prediction."
TIME_FEATURE = "request.time"
VERSION_FEATURE = "request.version"
# Only where a model has a traffic policy: who predicted, and whether nobody waited for it.
ROLE_FEATURE = "request.role"
SHADOW_FEATURE = "request.shadow"
# Microseconds that the model took; the id that both predictions of a request share; its row.
LATENCY_FEATURE = "request.latency"
ID_FEATURE = "request.id"
ROW_FEATURE = "request.row"
# What the server adds to the features, besides the predictions.
REQUEST_FEATURES = frozenset(
    (
        *(TIME_FEATURE, VERSION_FEATURE, ROLE_FEATURE, SHADOW_FEATURE),
        *(LATENCY_FEATURE, ID_FEATURE, ROW_FEATURE),
    )
)
