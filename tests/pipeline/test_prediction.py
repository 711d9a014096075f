"""The prediction pipeline: one node, which Kubeflow can compile."""

from __future__ import annotations

from pathlib import Path

import yaml
from tfx import v1 as tfx

from pipeline.config import load_config
from pipeline.prediction import PIPELINE_NAME, create_prediction_pipeline


def test_prediction_pipeline_compiles_to_one_task(tmp_path: Path) -> None:
    pipeline = create_prediction_pipeline(
        load_config(settings=["data.separator=;"]),
        pipeline_root=str(tmp_path),
        serving_dir="/served",
        input_uri="/tables/today.csv",
        output_uri="/predictions/today",
        version=7,
        public_keys=["/keys"],
    )
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image="image", use_pipeline_spec_2_1=True
        ),
        output_dir=str(tmp_path),
        output_filename="pipeline.yaml",
    )
    runner.run(pipeline)
    spec = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    assert spec["pipelineInfo"]["name"] == PIPELINE_NAME
    (task,) = spec["root"]["dag"]["tasks"].values()
    given = {
        name: next(iter(value["runtimeValue"]["constant"].values()))
        if isinstance(value["runtimeValue"]["constant"], dict)
        else value["runtimeValue"]["constant"]
        for name, value in task["inputs"]["parameters"].items()
    }
    assert given["input_uri"] == "/tables/today.csv"
    assert given["version"] == 7
    assert given["public_keys"] == '["/keys"]'
    assert '"separator": ";"' in given["layout"]
    assert given["prediction"] == load_config().prediction
