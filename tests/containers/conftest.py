"""The image, and runs of the pipeline compiled for it; `make test-containers` prepares both."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT, TRIPS

MOUNT_PATH = "/mnt/flightdeck"
_SECONDS = 900


@dataclass(frozen=True)
class Image:
    """The project's image in podman's storage."""

    name: str

    def run(self, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Runs a command in a container without network."""
        podman = ["podman", "run", "--rm", "--network=none", *options, self.name, *command]
        return subprocess.run(podman, capture_output=True, text=True, timeout=300, check=False)

    def output(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """What such a command prints, if it succeeds."""
        done = self.run(*command, options=options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def inspect(self, template: str) -> str:
        """What podman knows of the image."""
        command = ["podman", "image", "inspect", "--format", template, self.name]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class ContainerRun:
    """A run of the compiled pipeline, finished or failed.

    Attributes:
      returncode: Not 0 if a task failed.
      screen: What it and all of its tasks printed.
      volume: Folder that all tasks had as the volume.
      artifacts: Folder with one of each task that was started.
      tasks: Name of each task that the package has.
    """

    returncode: int
    screen: str
    volume: Path
    artifacts: Path
    tasks: frozenset[str]


RunPipeline = Callable[[Path], ContainerRun]


@pytest.fixture(scope="session")
def image() -> Image:
    """The image that the environment names."""
    return Image(os.environ["IMAGE"])


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of podman's service, which speaks Docker's protocol."""
    socket = tmp_path_factory.mktemp("podman") / "socket"
    service = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"])
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert service.poll() is None, "podman's service ended"
            assert time.monotonic() < deadline, "podman's service does not start"
            time.sleep(0.1)
        yield f"unix://{socket}"
    finally:
        service.terminate()
        service.wait(timeout=30)


@pytest.fixture(scope="session")
def run_pipeline(
    image: Image, docker_host: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunPipeline]:
    """Compiles the pipeline for the image and runs it on a folder that holds a folder `spans`."""
    label = f"flightdeck-test-{os.getpid()}"

    def run(volume: Path) -> ContainerRun:
        work = tmp_path_factory.mktemp("run")
        package, root = work / "pipeline.yaml", work / "root"
        root.mkdir()
        shutil.copytree(TRIPS.parent, volume / "code" / "tests" / "trips")
        # A library installs a package of this name, which would come first otherwise.
        (volume / "code" / "tests" / "__init__.py").touch()
        for folder in (root, volume):
            folder.chmod(0o777)  # The image's user is nobody here.
        _compile(package, image.inspect("{{index .RepoDigests 0}}"))
        command = [os.environ["KFP_LOCAL"], str(Path(__file__).with_name("run_pipeline.py"))]
        command += [str(package), "--pipeline-root", str(root), "--volume", str(volume)]
        command += ["--mount-path", MOUNT_PATH, "--label", label]
        done = subprocess.run(
            command,
            env=os.environ | {"DOCKER_HOST": docker_host},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
        (artifacts,) = root.iterdir()
        spec = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
        tasks = frozenset(spec["root"]["dag"]["tasks"])
        return ContainerRun(done.returncode, done.stdout, volume, artifacts, tasks)

    yield run
    listing = ["podman", "ps", "--all", "--quiet", "--filter", f"label={label}"]
    containers = subprocess.run(listing, stdout=subprocess.PIPE, text=True, check=True).stdout
    if containers:
        subprocess.run(["podman", "rm", "--force", *containers.split()], check=True)


def _compile(package: Path, image: str) -> None:
    settings = (
        # The image holds no tests: what they bring is on the volume, in a folder `code`, where
        # run_pipeline.py has Python look.
        f"gate.schema={MOUNT_PATH}/code/tests/trips/schema/schema.pbtxt",
        f"kubeflow.image={image}",
        "kubeflow.volume_claim=flightdeck",
        f"kubeflow.mount_path={MOUNT_PATH}",
        "data.uri=spans",
        "data.as_of=201303",
        # `kfp.local` runs no task that has a condition.
        "kubeflow.state_dir=",
        # What is pruned learns from the float model alone, which has to be good to be pushed.
        "training.epochs=10",
        "training.patience=10",
        "training.batch_size=256",
        "evaluation.max_loss=0.5",
        "evaluation.thresholds.auc=0.5",
        "evaluation.slice_thresholds.auc=0.4",
        "compression.max_loss=0.5",
        "compression.max_slice_loss=1",
    )
    command = [sys.executable, str(PROJECT / "kubeflow_runner.py"), "compile"]
    command += ["--output", str(package), *(f"--set={setting}" for setting in settings)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
