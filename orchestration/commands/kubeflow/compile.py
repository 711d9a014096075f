"""`kubeflow_runner.py compile`: writes the package."""

from __future__ import annotations

from pathlib import Path

import click

from orchestration.commands.kubeflow.options import pipeline_option
from orchestration.commands.options import config_options, fail, read_config
from storage.errors import UserError


@click.command()
@config_options
@pipeline_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("pipeline.yaml"),
    show_default=True,
    help="Where to write the package.",
)
def compile(
    config_path: str | None, settings: tuple[str, ...], pipeline: str, output: Path
) -> None:
    """Writes the pipeline as a package that Kubeflow Pipelines accepts.

    \b
    Examples:
      python kubeflow_runner.py compile --config my.toml --output pipeline.yaml
      python kubeflow_runner.py compile --config my.toml --pipeline monitoring
    """
    config = read_config(config_path, settings)
    from orchestration.kubeflow.compilation import compile_config

    try:
        output.write_text(compile_config(config, pipeline), encoding="utf-8")
    except (UserError, OSError) as error:
        fail(str(error))
    click.echo(f"Wrote {output}: accepted by the checks of Kubeflow Pipelines.")
