"""The pipeline out of stock TFX components alone, run by TFX's LocalDagRunner.

Reads the same rows in the same splits, as CSV, and runs the same user code, for
benchmarks/stock.py.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
from tfx import v1 as tfx

from pipeline.config import Config, load_config
from pipeline.evaluation import make_eval_config
from pipeline.model import Model
from storage import spans
from storage.parquet import open_file

SPLITS = ("train", "eval", "test")


def write_csv(config: Config, root: Path) -> None:
    """Writes the window of a configuration as CSV files, one folder per split."""
    data = config.data
    window = spans.resolve_window(data.source, data.as_of, data.window)
    learned = pa.concat_tables(open_file(path).read() for s in window.train for path in s.files)
    test = pa.concat_tables(open_file(path).read() for path in window.test.files)
    times = learned[data.time_column]
    cutoff = pc.subtract(pc.max(times), timedelta(days=data.eval_days))
    late = pc.greater(times, cutoff)
    tables = {"train": learned.filter(pc.invert(late)), "eval": learned.filter(late), "test": test}
    for split in SPLITS:
        # By pandas: CsvExampleGen keeps the quotes that pyarrow puts around a header's names, and
        # takes a column of floats for integers where they are written without a point.
        frame = tables[split].to_pandas()
        frame[data.time_column] = frame[data.time_column].astype("int64") // 10**9
        (root / split).mkdir(parents=True)
        # What is absent is written as NaN, which the schema's default is: of nothing CsvExampleGen
        # makes a list without values, which Transform refuses.
        frame.to_csv(root / split / "rows.csv", index=False, na_rep="nan")


def create_stock_pipeline(config: Config, csv: Path, output: Path) -> tfx.dsl.Pipeline:
    """Builds the pipeline as the TFX guide does, with its defaults."""
    model = Model.load(config)
    splits = [tfx.proto.Input.Split(name=name, pattern=f"{name}/*") for name in SPLITS]
    example_gen = tfx.components.CsvExampleGen(
        input_base=str(csv), input_config=tfx.proto.Input(splits=splits)
    )
    examples = example_gen.outputs["examples"]
    schema_gen = tfx.components.ImportSchemaGen(schema_file=config.gate.schema)
    schema = schema_gen.outputs["schema"]
    statistics_gen = tfx.components.StatisticsGen(examples=examples)
    validator = tfx.components.ExampleValidator(
        statistics=statistics_gen.outputs["statistics"], schema=schema
    )
    transform = tfx.components.Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn=model.preprocessing_fn,
        custom_config=model.custom_config,
        splits_config=tfx.proto.SplitsConfig(analyze=["train"], transform=["train", "eval"]),
    )
    trainer = tfx.components.Trainer(
        run_fn=model.run_fn,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        train_args=tfx.proto.TrainArgs(splits=["train"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config=dataclasses.asdict(config.training) | model.custom_config,
    )
    eval_config = make_eval_config(config.evaluation, model)
    eval_config.options.ClearField("include_default_metrics")
    eval_config.options.ClearField("compute_confidence_intervals")
    evaluator = tfx.components.Evaluator(
        examples=examples,
        model=trainer.outputs["model"],
        schema=schema,
        example_splits=["test"],
        eval_config=eval_config,
    )
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(output / "serving"))
        ),
    )
    return tfx.dsl.Pipeline(
        pipeline_name="stock",
        pipeline_root=str(output / "artifacts"),
        components=[
            example_gen,
            schema_gen,
            statistics_gen,
            validator,
            transform,
            trainer,
            evaluator,
            pusher,
        ],
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(output / "metadata.sqlite")
        ),
        # Without a runner's name Beam tries to download one first. All else is as TFX has it.
        beam_pipeline_args=[arg for arg in config.beam_args if arg.startswith("--runner=")],
    )


@click.command()
@click.option("--window", type=int, required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(window: int, output: Path) -> None:
    """Writes the CSV files, then runs the stock pipeline on them."""
    config = load_config(settings=[f"data.window={window}"])
    write_csv(config, output / "csv")
    tfx.orchestration.LocalDagRunner().run(create_stock_pipeline(config, output / "csv", output))


if __name__ == "__main__":
    main()
