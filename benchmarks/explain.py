"""Times the Explainer on 1,000 rows, and `:explain` of one row on the embedded server."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np

from benchmarks.common import report, run_measured
from benchmarks.finished_run import FinishedRun
from components.serving_validator.server import run_server
from ml.artifacts import serving_model_uri
from ml.file_names import EXPLANATIONS_FILE
from storage.directory import ModelDirectory
from storage.names import BACKGROUND_FILE

_REQUESTS, _WARMING = 200, 20
_HOST, _SECONDS = "127.0.0.1", 60.0
_COLUMNS = ["what", "rows", "median", "99th percentile"]


@click.command()
@click.option(
    "--run",
    "output",
    type=click.Path(exists=True, path_type=Path),
    help="Output directory of a finished run of the default model; without it, it runs first.",
)
@click.option("--rows", default=1000, show_default=True, help="Rows that the Explainer explains.")
def main(output: Path | None, rows: int) -> None:
    """Runs the Explainer once, and requests explanations one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if output is None:
            output = work / "run"
            run_measured(["local_runner.py", "run", f"--output={output}"], allowed=(0, 4))
        run = FinishedRun(output)
        started = time.perf_counter()
        outputs = run.execute("Explainer", work / "made", rows=rows)
        seconds = time.perf_counter() - started
        made = Path(outputs["explanations"].uri)
        content = json.loads((made / EXPLANATIONS_FILE).read_text())
        results: dict[str, Any] = {"seconds": seconds, "rows": content["rows"]}
        table = [
            [
                "Explainer, with the import of shap and plots",
                f"{content['rows']:,}",
                f"{seconds:.1f} s",
                "",
            ]
        ]
        directory = ModelDirectory(str(work / "serving"), run.config.model_name)
        (work / "provenance").mkdir()
        background = (made / BACKGROUND_FILE).read_bytes()
        (work / "provenance" / BACKGROUND_FILE).write_bytes(background)
        model = run.artifact("Quantizer", "quantized_model")
        directory.publish(1, serving_model_uri(model), str(work / "provenance"))
        for name, options in (("model.tflite", ["--prefer-tflite"]), ("SavedModel", [])):
            times = _request(directory, background, options, work / f"{name}.log")
            median, slowest = np.percentile(times, [50, 99]) * 1000
            results[name] = {"median_ms": median, "p99_ms": slowest}
            table.append([f":explain, {name}", "1", f"{median:.1f} ms", f"{slowest:.1f} ms"])
    notes = (
        f"{content['background_rows']} background rows, {len(content['importance'])} features and "
        f"groups; two seeds agree by {content['stability']['rank_correlation']:.3f} (rank "
        f"correlation of the importance), SHAP and LIME by "
        f"{content['agreement']['rank_correlation']:.3f}. {_REQUESTS} requests for one row each, "
        "one after the other, over REST; the client shares the cores."
    )
    report("explanations", _COLUMNS, table, results, notes)


def _request(
    directory: ModelDirectory, background: bytes, options: list[str], log: Path
) -> list[float]:
    """Seconds that each request for the explanation of a background row took."""
    inputs = json.loads(background)["inputs"]
    count = len(next(iter(inputs.values())))
    bodies = [
        json.dumps(
            {
                "signature_name": "raw_features",
                "inputs": {name: [values[row]] for name, values in inputs.items()},
            }
        )
        for row in range(count)
    ]
    command = [
        *(sys.executable, "-m", "serving", "serve", directory.serving_dir, "--no-verify"),
        *("--grpc-port=0", "--rest-port=0", "--no-access-log", *options),
    ]
    times = []
    with run_server(command, str(log)), httpx.Client(timeout=_SECONDS, trust_env=False) as client:
        port = _rest_port(log)
        url = f"http://{_HOST}:{port}/v1/models/{directory.model_name}:explain"
        for number in range(_WARMING + _REQUESTS):
            started = time.perf_counter()
            client.post(url, content=bodies[number % count]).raise_for_status()
            times.append(time.perf_counter() - started)
    return times[_WARMING:]


def _rest_port(log: Path) -> int:
    """The port that a server says that it listens on."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return int(json.loads(line)["rest_port"])
        time.sleep(0.1)
    raise click.ClickException(f"the server does not listen: {log.read_text()[-500:]}")


if __name__ == "__main__":
    main()
