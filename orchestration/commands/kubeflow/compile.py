"""`kubeflow_runner.py compile`: writes the package."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.kubeflow.options import (
    VERTEX,
    compile_for,
    pipeline_option,
    target_option,
)
from orchestration.commands.options import config_options, fail, read_config
from storage.errors import UserError


@click.command()
@config_options
@pipeline_option
@target_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("pipeline.yaml"),
    show_default=True,
    help="Where to write the package.",
)
def compile(
    config_path: str | None, settings: tuple[str, ...], pipeline: str, target: str, output: Path
) -> None:
    """Writes the pipeline as a package that Kubeflow Pipelines, or Vertex AI, accepts.

    \b
    Examples:
      python kubeflow_runner.py compile --config my.toml --output pipeline.yaml
      python kubeflow_runner.py compile --config my.toml --pipeline monitoring
      python kubeflow_runner.py compile --config my.toml --target vertex
    """
    config = read_config(config_path, settings)
    try:
        output.write_text(compile_for(target, config, pipeline), encoding="utf-8")
    except (UserError, OSError) as error:
        fail(str(error))
    checked = (
        "for Vertex AI" if target == VERTEX else "accepted by the checks of Kubeflow Pipelines"
    )
    click.echo(f"Wrote {output}: {checked}.")
