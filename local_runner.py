"""Runs the pipeline on this machine."""

from __future__ import annotations

import os

# tfmot and TFX work with tf_keras, not with Keras 3. Set before anything imports TensorFlow, and
# inherited by all node processes.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import dataclasses
import signal
import sys
import traceback
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from components import spans
from components.errors import BlockingAnomalies, UserError
from orchestration.cache_keys import CodeVersion
from orchestration.display import RunDisplay
from orchestration.local_dag_runner import ConcurrentDagRunner, start_fork_server
from orchestration.node_process import FAILED, NodeResult, redirect_output
from orchestration.output_directory import OutputDirectory, new_run_id
from pipeline.config import Config, KubeflowConfig, load_config
from serving.directory import ModelDirectory
from serving.signing import KeyFileError, ensure_key_pair

FAILED_STATUS = 1
STOPPED_BY_GATE_STATUS = 3
NOT_BLESSED_STATUS = 4
INTERRUPTED_STATUS = 130

_EPILOG = """\b
Examples:
  python local_runner.py run
  python local_runner.py run --as-of 201309 --window 3 --output output/september
  python local_runner.py run --config my.toml --set training.epochs=3

\b
Exit status:
  0 a version was pushed, or there is nothing new    3 stopped by DataGate
  1 failed    2 wrong usage or configuration         4 not blessed
"""


@click.group()
def main() -> None:
    """Runs the pipeline on this machine."""


@main.command(epilog=_EPILOG)
@click.option("--as-of", type=int, help="Month to judge on, YYYYMM. Default: the newest.")
@click.option("--window", type=int, help="Months before it to learn from. Default: 6.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("output"),
    show_default=True,
    help="Directory for artifacts, metadata, logs and the Serving directory.",
)
@click.option("--config", "config_path", metavar="FILE.toml", help="Configuration file.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting; over the file."
)
@click.option("--no-cache", is_flag=True, help="Run every node, even if nothing is new.")
def run(
    as_of: int | None,
    window: int | None,
    output: Path,
    config_path: str | None,
    settings: tuple[str, ...],
    no_cache: bool,
) -> None:
    """Learns from a window of months, and pushes the model if it is good enough."""
    flags = {"data.as_of": as_of, "data.window": window}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    try:
        config = load_config(config_path, [*settings, *given])
    except UserError as error:
        raise click.UsageError(str(error)) from error
    console = Console(file=os.fdopen(os.dup(1), "w"), highlight=False)
    directory = OutputDirectory(output.resolve())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Stops as cleanly as on Ctrl-C.
    try:
        with directory.locked():
            status = _run(config, directory, console, use_cache=not no_cache)
    except UserError as error:
        _say_error(console, str(error))
        status = FAILED_STATUS
    except KeyboardInterrupt:
        console.print("Stopped. The next run resumes from the nodes that are complete.")
        status = INTERRUPTED_STATUS
    except Exception:
        # Output is in the log by now, so a traceback would not be seen: say where it is.
        traceback.print_exc()
        _say_error(console, f"The run failed: {traceback.format_exc().splitlines()[-1]}")
        if log := newest_log(directory):
            console.print(Text(f"  log: {log}"), soft_wrap=True)
        status = FAILED_STATUS
    sys.exit(status)


def newest_log(directory: OutputDirectory) -> Path | None:
    """The log of the run that was started last, if it came that far."""
    return max((directory.root / "logs").glob("*/runner.log"), default=None)


def _run(config: Config, directory: OutputDirectory, console: Console, *, use_cache: bool) -> int:
    window = spans.resolve_window(config.data.uri, config.data.as_of, config.data.window)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, as_of=window.test.month)
    )
    here = Path(__file__).parent
    code_version = CodeVersion(here / "components", here / "pipeline", (config.gate.schema,))
    # Where it would run on Kubeflow makes no difference here.
    settings = dataclasses.asdict(dataclasses.replace(config, kubeflow=KubeflowConfig()))
    key = code_version.run_key(settings, window.fingerprint)
    models = ModelDirectory(str(directory.serving), config.model_name)
    served = models.served() or 0
    if use_cache and served and models.provenance(served).get("run_key") == key:
        console.print(
            f"Nothing new: version {served} of {config.model_name} was made from this data, "
            "configuration and code.",
            soft_wrap=True,
        )
        return 0
    signing_key = _signing_key(config, directory)
    run_id = new_run_id()
    logs = directory.logs(run_id)
    logs.mkdir(parents=True)
    start_fork_server(logs / "imports.log")
    redirect_output(str(logs / "runner.log"))
    spinner = Spinner("dots", "Importing TFX …")
    with Live(
        spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ):
        from orchestration import tfx_internals
        from pipeline.pipeline import create_pipeline
    pipeline = create_pipeline(
        config,
        pipeline_root=str(directory.artifacts),
        serving_dir=str(directory.serving),
        fingerprint=window.fingerprint,
        served_version=served,
        run_key=key,
        signing_key=signing_key,
        metadata_path=str(directory.metadata),
        enable_cache=use_cache,
    )
    store = tfx_internals.LockedMetadata(str(directory.metadata), str(directory.metadata_lock))
    compiled = tfx_internals.compile_pipeline(pipeline, run_id, code_version)
    upstream = tfx_internals.node_ids(compiled)
    tfx_internals.cancel_unfinished(store)
    try:
        with RunDisplay(console, list(upstream)) as display:
            runner = ConcurrentDagRunner(
                directory, run_id, "orchestration.summaries.summarize", display
            )
            results = runner.run(compiled.SerializeToString(), upstream)
    finally:
        tfx_internals.cancel_unfinished(store)
    return _conclude(console, runner, results)


def _signing_key(config: Config, directory: OutputDirectory) -> str:
    """The private key to sign with, made where there is none; "" where signing is turned off.

    Raises:
      UserError: If the key cannot be made or used, which the Pusher would find out last.
    """
    if not config.serving.sign:
        return ""
    try:
        return ensure_key_pair(
            str(Path(config.serving.signing_key or directory.signing_key).resolve())
        ).private
    except KeyFileError as error:
        raise UserError(str(error)) from error


def _conclude(console: Console, runner: ConcurrentDagRunner, results: dict[str, NodeResult]) -> int:
    """Says what the run came to, and returns the exit status."""
    from orchestration.summaries import NOT_BLESSED, PUSHED

    console.print()
    failed = {node_id: result for node_id, result in results.items() if result.state == FAILED}
    for node_id, result in failed.items():
        summary = result.summary
        _say_error(console, "\n".join([f"{node_id}: {summary.line}", *summary.details]))
        console.print(Text(f"  log: {runner.log_path(node_id)}"), soft_wrap=True)
    if failed:
        stopped = all(result.error == BlockingAnomalies.__name__ for result in failed.values())
        return STOPPED_BY_GATE_STATUS if stopped else FAILED_STATUS
    refused = {i: r.summary for i, r in results.items() if r.summary.outcome == NOT_BLESSED}
    for node_id, summary in refused.items():
        reasons = [f"{node_id}: the model is not blessed:", *summary.details]
        _say_error(console, "\n  ".join(reasons))
    if refused:
        return NOT_BLESSED_STATUS
    for result in results.values():
        if result.summary.outcome == PUSHED:
            console.print(
                Text(f"Pushed {result.summary.line} to {result.summary.details[0]}"), soft_wrap=True
            )
            return 0
    console.print("Nothing new was pushed.")
    return 0


def _say_error(console: Console, message: str) -> None:
    console.print(Text(message, "bold red"), soft_wrap=True)


if __name__ == "__main__":
    main()
