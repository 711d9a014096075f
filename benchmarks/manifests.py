"""Measures how long it takes to write the manifests of all four clouds with one command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.common import PROJECT, report
from storage.atomic_write import write_whole
from storage.directory import ModelDirectory
from storage.keys import ensure_key_pair
from storage.signing import sign

_LIMIT = 5.0  # seconds
_OPTIONS = {
    "model": "toy",
    "image": f"registry.example.com/flightdeck@sha256:{'0' * 64}",
    "google-serving-dir": "gs://my-bucket/serving_model",
    "amazon-serving-dir": "s3://my-bucket/serving_model",
    "project": "my-project",
    "location": "europe-west4",
    "service-account": "server@my-project.iam.gserviceaccount.com",
    "role": "arn:aws:iam::123456789012:role/server",
    "aws-region": "eu-central-1",
}


@click.command()
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True)
@click.option("--megabytes", type=click.IntRange(1), default=1, show_default=True)
def main(repetitions: int, megabytes: int) -> None:
    """Writes the manifests for a signed version, in a process of its own each time."""
    with tempfile.TemporaryDirectory() as work:
        public_key = _publish(Path(work), megabytes)
        seconds = [_write(Path(work), public_key, number) for number in range(repetitions)]
        files = [path for path in Path(work, "0").rglob("*") if path.is_file()]
    worst = max(seconds)
    report(
        "manifests",
        ["what", "value"],
        [
            ["files for GKE, EKS, Cloud Run and Vertex AI", str(len(files))],
            ["median", f"{statistics.median(seconds):.2f} s"],
            ["slowest", f"{worst:.2f} s (at most {_LIMIT:g} s)"],
        ],
        {"files": len(files), "seconds": seconds, "limit": _LIMIT},
        notes=f"`python -m serving manifests --target all`, {repetitions} times, each a new "
        f"process; it verifies the signature of a version of {megabytes} MB.",
    )
    if worst > _LIMIT:
        sys.exit(f"the slowest took {worst:.2f} s, more than {_LIMIT:g} s")


def _publish(work: Path, megabytes: int) -> str:
    pair = ensure_key_pair(str(work / "keys" / "signing.key"))
    write_whole(str(work / "model" / "saved_model.pb"), bytes(megabytes << 20))
    write_whole(str(work / "provenance" / "provenance.json"), b"{}")
    directory = ModelDirectory(str(work / "serving"), "toy")
    directory.publish(
        1795434497,
        str(work / "model"),
        str(work / "provenance"),
        lambda private, version: sign(private, version, pair.private),
    )
    return pair.public


def _write(work: Path, public_key: str, number: int) -> float:
    options = [part for name, value in _OPTIONS.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "serving", "manifests", str(work / "serving")]
    command += ["--target", "all", "--output", str(work / str(number)), "--public-key", public_key]
    started = time.perf_counter()
    subprocess.run([*command, *options], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
