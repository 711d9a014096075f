"""Tests of runs and schedules on Kubeflow Pipelines, over HTTP against a server that refuses."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import gzip
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from orchestration.kubeflow import connection, task_states, transport
from orchestration.kubeflow.client import KubeflowPipelines
from orchestration.kubeflow.connection import UI_HOST_ENV
from orchestration.kubeflow.credentials import HOST_ENV, NAMESPACE_ENV
from orchestration.kubeflow.cron import six_fields
from orchestration.kubeflow.errors import KubeflowError
from orchestration.kubeflow.package import Package, read_package
from orchestration.kubeflow.schedules import CREATED, UNCHANGED, UPDATED
from orchestration.kubeflow.task_states import TaskStatus
from orchestration.kubeflow.transport import TOKEN_ENV
from tests.orchestration.kubeflow_checks import check_cron
from tests.orchestration.kubeflow_stub import (
    DROP,
    DROP_AFTER,
    HANG,
    HTML,
    PACKAGE,
    REDIRECT,
    KubeflowStub,
)
from tests.orchestration.kubeflow_workflow import workflow

TIMEOUT, SHORT = 10, 1.0
CRON, OTHER_CRON = "0 6 1 * *", "0 7 2 * *"
VALUES: dict[str, int | float | str] = {"epochs": 3}
ALL_VALUES: dict[str, int | float | str] = {
    **VALUES,
    "rate": 0.5,
    "uri": "gs://bucket/data",
    "window": 6,
}
MAKING = ("CreatePipeline", "UploadPipelineVersion", "CreateExperiment", "CreateRun")


@pytest.fixture
def package() -> Package:
    return read_package(PACKAGE.encode())


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (HOST_ENV, NAMESPACE_ENV, TOKEN_ENV, UI_HOST_ENV, "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub() -> Iterator[KubeflowStub]:
    with KubeflowStub() as running:
        yield running


@pytest.fixture
def kubeflow(stub: KubeflowStub) -> KubeflowPipelines:
    return KubeflowPipelines(stub.host, timeout=TIMEOUT)


def changed(package: Package, comment: str = "changed") -> Package:
    return dataclasses.replace(package, content=package.content + f"\n# {comment}\n".encode())


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Expects an error of one line whose message has all these parts."""
    with pytest.raises(KubeflowError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Cron expressions


@pytest.mark.parametrize(
    ("given", "six"),
    [
        ("0 6 1 * *", "0 0 6 1 * *"),
        ("  30 6 * * mon-FRI ", "0 30 6 * * mon-FRI"),
        ("15 0 6 1 * ?", "15 0 6 1 * ?"),
        ("*/15 8-18/2 1,15 jan,JUL *", "0 */15 8-18/2 1,15 jan,JUL *"),
        ("0 0 29 2 *", "0 0 0 29 2 *"),
        ("0 0 31 2 mon", "0 0 0 31 2 mon"),  # also any Monday
        ("5/10 * * * 0", "0 5/10 * * * 0"),
    ],
)
def test_six_fields_gives_a_cron_expression_that_the_server_accepts(given: str, six: str) -> None:
    assert six_fields(given) == six
    check_cron(six)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "has 0 fields"),
        ("0 6 1 *", "has 4 fields"),
        ("0 0 6 1 * * 2026", "has 7 fields"),
        ("@monthly", "has 1 fields"),
        ("60 6 1 * *", "(Bad minute)"),
        ("0 24 1 * *", "(Bad hour)"),
        ("0 6 0 * *", "(Bad day-of-month)"),
        ("0 6 1 13 *", "(Bad month)"),
        ("0 6 1 * 7", "the weekday '7' is not understood"),
        ("0 6 20-10 * *", "(Bad day-of-month)"),
        ("*/0 6 1 * *", "(Bad minute)"),
        ("0 6 1 * monday", "the weekday 'monday' is not understood"),
        ("0 6 1, * *", "the day '1,' is not understood"),
        ("0 6 L * *", "the day 'L' is not understood"),
        ("0 six 1 * *", "(Bad hour)"),
        ("-1 6 1 * *", "the minute '-1' is not understood"),
    ],
)
def test_six_fields_refuses_a_bad_expression_and_tells_what_is_allowed(
    given: str, reason: str
) -> None:
    with refused(reason, "allowed are 5 fields", "'0 6 1 * *'"):
        six_fields(given)


@pytest.mark.parametrize("given", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 30-31 feb ?"])
def test_six_fields_refuses_an_expression_that_never_fires(given: str) -> None:
    """The server takes it, and its controller would look for the next time for ever."""
    six = given if given.count(" ") == 5 else f"0 {given}"
    check_cron(six)
    with refused("never comes"):
        six_fields(given)


def test_check_cron_of_the_stub_reads_five_fields_differently() -> None:
    check_cron("0 6 1 * *")  # second, minute, hour, day and month: every day at 1:06


# Packages and parameters


def test_package_version_depends_on_its_content(package: Package) -> None:
    assert package.version == read_package(package.content).version
    assert package.version != changed(package).version
    assert len(package.version) == 12


def test_read_package_writes_caching_into_the_package(package: Package) -> None:
    for enabled, wanted in ((True, {"enableCache": True}), (False, {})):
        spec = yaml.safe_load(read_package(package.content, enabled).content)
        assert spec["root"]["dag"]["tasks"]["train"]["cachingOptions"] == wanted
    assert read_package(package.content, None) == package


def bad_packages() -> dict[str, tuple[bytes, str, str]]:
    """Content by what is wrong with it, what the client says of it, and what the server says."""
    good = "schemaVersion: 2.1.0\npipelineInfo: {name: toy}\nroot: {dag: {}}\n"
    return {
        "not YAML": (b"a: [", "is not YAML", "failed to parse pipeline spec YAML"),
        "empty": (
            b"",
            "it holds no pipeline spec",
            "HTTP 500: Failed to create a pipeline version",
        ),
        "text": (b"hello", "not a mapping", "unknown template format"),
        "no name": (
            good.replace("{name: toy}", "{}").encode(),
            "name ''",
            "unknown template format",
        ),
        "no root": (
            good.replace("root", "roots").encode(),
            'no field named "roots"',
            "unknown template format",
        ),
        "two": (
            f"{good}---\n{good}".encode(),
            "more than one pipeline spec",
            "multiple pipeline specs",
        ),
        "old": (good.replace("2.1.0", "2.0.0").encode(), "'2.0.0'", "only supports schema version"),
        "name": (good.replace("toy", "Toy_1").encode(), "'Toy_1'", "must contain only lowercase"),
    }


@pytest.mark.parametrize("kind", bad_packages())
def test_read_package_refuses_a_bad_package_before_any_request(kind: str, tmp_path: Path) -> None:
    content, reason, _ = bad_packages()[kind]
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with refused(reason, str(file)):
        read_package(file)


@pytest.mark.parametrize("kind", bad_packages())
def test_submit_deletes_what_it_made_when_the_server_refuses_the_package(
    kind: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    content, _, reason = bad_packages()[kind]
    with refused("Cannot upload version", reason, "was deleted again: pipeline 'toy'"):
        kubeflow.submit(Package("toy", content, {}), {})
    assert not any(stub.state.values())


def test_read_package_names_a_missing_file(tmp_path: Path) -> None:
    with refused("Cannot read", str(tmp_path / "none.yaml"), "No such file"):
        read_package(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "parameter 'epochs' is missing"),
        ({"epochs": 3, "epoch": 4}, "no parameter 'epoch' (there are epochs, rate, uri, window)"),
        ({"epochs": "3"}, "parameter 'epochs' is '3', but a whole number is expected"),
        ({"epochs": 3.5}, "parameter 'epochs' is 3.5, but a whole number is expected"),
        ({"epochs": True}, "parameter 'epochs' is True, but a whole number is expected"),
        ({"epochs": 2**53 + 1}, "but a whole number is expected"),
        ({"epochs": 3, "rate": "fast"}, "parameter 'rate' is 'fast', but a number is expected"),
        ({"epochs": 3, "rate": float("nan")}, "parameter 'rate' is nan, but a number is expected"),
        ({"epochs": 3, "uri": 5}, "parameter 'uri' is 5, but text is expected"),
    ],
)
def test_submit_and_schedule_refuse_wrong_parameters_before_any_request(
    given: dict[str, Any],
    reason: str,
    package: Package,
    stub: KubeflowStub,
    kubeflow: KubeflowPipelines,
) -> None:
    with refused(reason):
        kubeflow.submit(package, given)
    with refused(reason):
        kubeflow.schedule("monthly", CRON, package, given)
    assert stub.calls == []


def test_package_complete_reports_all_wrong_parameters_together(package: Package) -> None:
    with refused("'epochs' is missing", "'rate' is 'x'", "no parameter 'other'"):
        package.complete({"rate": "x", "other": 1})


def test_package_parse_reads_parameters_as_the_declared_types(package: Package) -> None:
    read = package.parse({"epochs": "7", "rate": "1e-3", "uri": "7"})
    assert read == {"epochs": 7, "rate": 0.001, "uri": "7"}
    assert [type(value) for value in read.values()] == [int, float, str]
    with refused("parameter 'epochs' is '7.5'", "no parameter 'other'"):
        package.parse({"epochs": "7.5", "other": "1"})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "epochs is not optional"),
        ({"epochs": "3"}, "epochs requires type double or integer"),
        ({"epochs": 3, "other": 1}, "not required by pipeline: other"),
    ],
)
def test_schedule_deletes_what_it_made_when_the_server_refuses_parameters(
    values: dict[str, Any],
    reason: str,
    package: Package,
    stub: KubeflowStub,
    kubeflow: KubeflowPipelines,
) -> None:
    kinds = {int: "NUMBER_INTEGER", str: "STRING"}
    declared = {name: {"parameterType": kinds[type(value)]} for name, value in values.items()}
    other = dataclasses.replace(package, parameters=declared)
    with refused("Cannot start the run", reason, "HTTP 400", "was deleted again"):
        kubeflow.submit(other, values)
    with refused("Cannot create the schedule 'monthly'", reason, "was deleted again"):
        kubeflow.schedule("monthly", CRON, other, values)
    assert not any(stub.state.values())


# Submitting


def test_submit_sends_a_version_of_the_pipeline_and_all_parameters(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    done = kubeflow.submit(package, VALUES, experiment="nightly", service_account="trainer")
    (pipeline,) = stub.pipelines.values()
    (version,) = stub.versions.values()
    (experiment,) = stub.experiments.values()
    (run,) = stub.runs.values()
    assert pipeline["display_name"] == "toy-pipeline"
    assert version["display_name"] == package.version == done.version
    assert experiment["display_name"] == "nightly"
    assert run["run_id"] == done.run_id
    assert run["experiment_id"] == experiment["experiment_id"]
    assert run["pipeline_version_reference"] == {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": version["pipeline_version_id"],
    }
    assert run["runtime_config"]["parameters"] == ALL_VALUES
    assert run["service_account"] == "trainer"
    assert done.uploaded
    assert done.url == f"{stub.host}/#/runs/details/{done.run_id}"


def test_submit_reuses_the_version_of_the_same_package(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.submit(package, VALUES)
    again = kubeflow.submit(package, {"epochs": 4}, run_name="another")
    assert not again.uploaded
    assert [len(ids) for ids in stub.state.values()] == [1, 1, 1, 2, 0]
    assert stub.runs[again.run_id]["display_name"] == "another"


def test_submit_uploads_another_package_as_another_version(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.submit(package, VALUES)
    assert kubeflow.submit(changed(package), VALUES).uploaded
    assert [len(ids) for ids in stub.state.values()] == [1, 2, 1, 2, 0]


def test_submit_finds_existing_resources_on_any_page_and_by_any_name(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.largest_page = 2
    names = ["a+b", "100%", 'say "x" & y', "ä/ö", "toy"]
    for number, name in enumerate([*names, *names]):
        other = changed(package, str(number % len(names)))
        kubeflow.submit(other, VALUES, pipeline_name=name, experiment=name)
    assert [len(ids) for ids in stub.state.values()] == [5, 5, 5, 10, 0]


def test_submit_links_to_the_host_of_the_ui(
    package: Package, stub: KubeflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOST_ENV, stub.host)
    monkeypatch.setenv(UI_HOST_ENV, "https://kubeflow.example.com/pipeline/")
    done = KubeflowPipelines(timeout=TIMEOUT).submit(package, VALUES)
    assert done.url == f"https://kubeflow.example.com/pipeline/#/runs/details/{done.run_id}"


@pytest.mark.parametrize("how", [500, 503, 409, 401, 403, HTML, REDIRECT, DROP])
@pytest.mark.parametrize("operation", MAKING)
def test_submit_leaves_nothing_half_created_when_a_step_fails(
    operation: str,
    how: int | str,
    package: Package,
    stub: KubeflowStub,
    kubeflow: KubeflowPipelines,
) -> None:
    stub.fail(operation, how)
    with refused("Cannot "):
        kubeflow.submit(package, VALUES)
    assert not any(stub.state.values())
    assert kubeflow.submit(package, VALUES).run_id in stub.runs


@pytest.mark.parametrize("operation", ["ListRuns", "ListPipelineVersions", "ListExperiments"])
def test_submit_leaves_nothing_half_created_when_a_lookup_fails(
    operation: str, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.fail(operation, 500)
    with refused("Cannot list", "HTTP 500"):
        kubeflow.submit(package, VALUES)
    assert not any(stub.state.values())


@pytest.mark.parametrize("operation", MAKING)
def test_submit_leaves_nothing_half_created_after_a_timeout(
    operation: str, package: Package, stub: KubeflowStub
) -> None:
    stub.fail(operation, HANG)
    with refused("did not answer within 1 s"):
        KubeflowPipelines(stub.host, timeout=SHORT).submit(package, VALUES)
    assert not any(stub.state.values())


@pytest.mark.parametrize("operation", MAKING)
def test_submit_finds_and_uses_what_was_made_without_a_response(
    operation: str, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.fail(operation, DROP_AFTER)
    done = kubeflow.submit(package, VALUES)
    assert list(stub.runs) == [done.run_id]
    assert [len(ids) for ids in stub.state.values()] == [1, 1, 1, 1, 0]


def test_submit_does_not_mistake_a_run_of_the_same_name_for_its_own(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.submit(package, VALUES, run_name="nightly")
    stub.fail("CreateRun", DROP)
    with refused("Cannot start the run 'nightly'"):
        kubeflow.submit(package, VALUES, run_name="nightly")
    assert len(stub.runs) == 1


def test_submit_keeps_existing_resources_when_a_run_is_refused(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.submit(package, VALUES)
    before = stub.state
    stub.fail("CreateRun", 500)
    other = changed(package)
    with refused(f"deleted again: version {other.version} of the pipeline 'toy-pipeline'."):
        kubeflow.submit(other, VALUES)
    assert stub.state == before


def test_submit_reports_what_it_cannot_delete_and_uses_it_next_time(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.fail("CreateRun", 500)
    stub.fail("DeletePipelineVersion", 503)
    version = f"version {package.version} of the pipeline 'toy-pipeline'"
    with refused("is still there", f"used by the next try: pipeline 'toy-pipeline', {version} ("):
        kubeflow.submit(package, VALUES)
    assert not kubeflow.submit(package, VALUES).uploaded


def test_submit_keeps_the_version_if_the_run_may_have_started(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.fail("CreateRun", DROP_AFTER)
    stub.fail("ListRuns", 503, nth=2)
    with refused("It is not known whether it was done", "look in the UI"):
        kubeflow.submit(package, VALUES)
    assert [len(ids) for ids in stub.state.values()] == [1, 1, 1, 1, 0]


def test_submit_does_not_use_a_pipeline_whose_name_differs_in_case(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.submit(package, VALUES, pipeline_name="Toy")
    with refused("Cannot create the pipeline 'toy'", "HTTP 409", "choose another name"):
        kubeflow.submit(package, VALUES, pipeline_name="toy")


@pytest.mark.parametrize("kind", ["pipeline", "experiment", "run", "schedule"])
@pytest.mark.parametrize("name", ["ä" * 128, " "])
def test_kubeflow_client_refuses_a_bad_name_before_any_request(
    kind: str, name: str, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    names = {"pipeline": "pipeline_name", "experiment": "experiment", "run": "run_name"}
    reason = "is empty" if name == " " else f"has 256 bytes, '{'ä' * 20}…': at most"
    with refused(f"The name of the {kind} {reason}"):
        if kind == "schedule":
            kubeflow.schedule(name, CRON, package, VALUES)
        else:
            kubeflow.submit(package, VALUES, **{names[kind]: name})
    assert stub.calls == []


def test_submit_shows_what_the_server_says_of_a_name(
    package: Package,
    stub: KubeflowStub,
    kubeflow: KubeflowPipelines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connection.LONGEST_NAMES, "pipeline", 1000)
    with refused("HTTP 500: Invalid input error: Pipeline.Name length cannot exceed 128"):
        kubeflow.submit(package, VALUES, pipeline_name="p" * 129)
    assert not any(stub.state.values())


# Connecting


def test_submit_mentions_the_port_forward_where_no_server_listens(package: Package) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with refused("nothing answers at", host, "kubectl port-forward -n kubeflow"):
        KubeflowPipelines(host, timeout=TIMEOUT).submit(package, VALUES)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (HANG, "did not answer within 1 s"),
        (DROP, "closed the connection without an answer"),
        (HTML, "a web page instead of data"),
        (REDIRECT, "/dex/auth (HTTP 302)"),
        (503, "the server failed (HTTP 503"),
        (404, "HTTP 404"),
    ],
)
def test_kubeflow_client_describes_an_unhealthy_server(
    how: int | str, reason: str, stub: KubeflowStub
) -> None:
    stub.fail("GetHealthz", how)
    with refused(f"Cannot use Kubeflow Pipelines at {stub.host}", reason):
        KubeflowPipelines(stub.host, timeout=SHORT).schedules()
    assert stub.operations == ["GetHealthz"]  # one try


def test_kubeflow_client_describes_an_address_of_another_service(stub: KubeflowStub) -> None:
    host = f"{stub.host}/somewhere/else"
    with refused("there is no API of Kubeflow Pipelines at", host, "HTTP 404"):
        KubeflowPipelines(host, timeout=TIMEOUT).schedules()


def test_submit_tells_how_to_give_a_token(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.token = "s3cret"
    with refused("HTTP 401", "missing or expired", "--token-file", TOKEN_ENV):
        kubeflow.submit(package, VALUES)
    assert not any(stub.state.values())


def test_kubeflow_client_does_not_show_a_wrong_token(
    stub: KubeflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.token = "right"
    monkeypatch.setenv(TOKEN_ENV, "wr0ng")
    with pytest.raises(KubeflowError) as caught:
        KubeflowPipelines(stub.host, timeout=TIMEOUT).schedules()
    assert stub.headers["authorization"] == "Bearer wr0ng"
    assert "wr0ng" not in str(caught.value)
    assert caught.value.status == 401


def test_kubeflow_client_reads_the_token_file_for_every_request(
    stub: KubeflowStub, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    kubeflow = KubeflowPipelines(stub.host, token_file=str(file), timeout=TIMEOUT)
    for token in ("first", "renewed"):
        file.write_text(f"{token}\n")
        stub.token = token
        assert kubeflow.schedules() == []


@pytest.mark.parametrize("variable", [TOKEN_ENV, "KF_PIPELINES_SA_TOKEN_PATH"])
def test_kubeflow_client_takes_a_token_from_the_environment(
    variable: str, stub: KubeflowStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.token = "s3cret"
    (tmp_path / "token").write_text("s3cret")
    monkeypatch.setenv(variable, "s3cret" if variable == TOKEN_ENV else str(tmp_path / "token"))
    assert KubeflowPipelines(stub.host, timeout=TIMEOUT).schedules() == []


@pytest.mark.parametrize("option", ["token_file", "ca_file"])
def test_kubeflow_client_names_a_missing_or_empty_file(option: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with refused(f"Cannot read {file}"):
        KubeflowPipelines("http://localhost:1", **{option: str(file)})  # type: ignore[arg-type]
    file.touch()
    with refused(f"{file} is empty"):
        KubeflowPipelines("http://localhost:1", **{option: str(file)})  # type: ignore[arg-type]


def test_submit_needs_a_namespace_in_a_multi_user_deployment(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.multi_user = True
    with refused("has several namespaces", "--namespace", NAMESPACE_ENV):
        kubeflow.submit(package, VALUES)
    assert stub.operations == ["GetHealthz"]


def test_kubeflow_client_makes_everything_in_the_namespace(
    package: Package, stub: KubeflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.multi_user = True
    stub.namespaces = ("team", "other")
    monkeypatch.setenv(NAMESPACE_ENV, "team")
    for namespace in (None, "other"):
        kubeflow = KubeflowPipelines(stub.host, namespace=namespace, timeout=TIMEOUT)
        kubeflow.submit(package, VALUES)
        kubeflow.schedule("monthly", CRON, package, VALUES)
        assert len(kubeflow.schedules()) == 1
    made = [*stub.pipelines.values(), *stub.experiments.values(), *stub.runs.values()]
    made += stub.recurring_runs.values()
    assert sorted(one["namespace"] for one in made) == ["other"] * 4 + ["team"] * 4


def test_kubeflow_client_takes_the_namespace_of_the_token(
    package: Package, stub: KubeflowStub, tmp_path: Path
) -> None:
    claims = json.dumps({"kubernetes.io": {"namespace": "team"}}).encode()
    stub.multi_user = True
    stub.token = f"header.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.signature"
    (tmp_path / "token").write_text(stub.token)
    kubeflow = KubeflowPipelines(stub.host, token_file=str(tmp_path / "token"), timeout=TIMEOUT)
    run = kubeflow.submit(package, VALUES)
    assert stub.runs[run.run_id]["namespace"] == "team"


def test_submit_refuses_a_forbidden_namespace(package: Package, stub: KubeflowStub) -> None:
    stub.multi_user = True
    with refused("HTTP 403", "Namespace:secret", "is the namespace right"):
        KubeflowPipelines(stub.host, namespace="secret", timeout=TIMEOUT).submit(package, VALUES)
    assert not any(stub.state.values())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of a certificate that signs itself, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "server.pem").write_bytes(built.public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "server.pem"), str(folder / "server.key")


def test_kubeflow_client_trusts_the_certificate_of_ca_file(certificate: tuple[str, str]) -> None:
    with KubeflowStub(tls=certificate) as stub:
        with refused("certificate", "is not trusted", "--ca-file"):
            KubeflowPipelines(stub.host, timeout=TIMEOUT).schedules()
        trusting = KubeflowPipelines(stub.host, ca_file=certificate[0], timeout=TIMEOUT)
        assert trusting.schedules() == []


@pytest.mark.parametrize("scheme", ["https://", ""])
def test_kubeflow_client_describes_tls_to_a_server_without_tls(
    scheme: str, stub: KubeflowStub
) -> None:
    host = stub.host.replace("http://", scheme)
    with refused("does not speak TLS", "http://"):
        KubeflowPipelines(host, timeout=TIMEOUT).schedules()


# Runs


STEPS: list[dict[str, Any]] = [
    {"state": "PENDING"},
    {"state": "RUNNING", "tasks": {"Load": "DRIVING"}},
    {"state": "RUNNING", "tasks": {"Load": "RUNNING"}},
    {"state": "RUNNING", "tasks": {"Load": "SUCCEEDED", "Train": "RUNNING"}},
]
WELL: dict[str, Any] = {"state": "SUCCEEDED", "tasks": {"Load": "SUCCEEDED", "Train": "SUCCEEDED"}}
BADLY: dict[str, Any] = {
    "state": "FAILED",
    "tasks": {"Load": "SUCCEEDED", "Train": ("FAILED", "no\nmemory left")},
    "error": "a task failed",
}


@pytest.fixture
def run_id(package: Package, kubeflow: KubeflowPipelines) -> str:
    return kubeflow.submit(package, VALUES).run_id


def test_wait_reports_each_change_of_a_task_once(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script = [*STEPS, STEPS[-1], WELL]
    told: list[TaskStatus] = []
    status = kubeflow.wait(run_id, told.append, poll_seconds=0.01)
    assert [(task.name, task.state) for task in told] == [
        *(("Load", "RUNNING"), ("Load", "SUCCEEDED")),
        *(("Train", "RUNNING"), ("Train", "SUCCEEDED")),
    ]
    assert status.state == "SUCCEEDED"
    assert status.finished is not None


def test_status_of_a_failed_run_has_its_tasks_and_their_errors(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script = [BADLY]
    status = kubeflow.status(run_id)
    assert status.state == "FAILED"
    assert status.error == "a task failed"
    assert status.tasks == (
        TaskStatus("Load", "SUCCEEDED"),
        TaskStatus("Train", "FAILED", "no memory left"),
    )
    assert status.url.endswith(f"/#/runs/details/{run_id}")


def test_status_of_an_unfinished_run_has_no_end(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script = STEPS[2:]
    status = kubeflow.status(run_id)
    assert status.finished is None
    assert status.created is not None


def test_wait_goes_on_when_the_server_is_away_for_a_moment(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script = [*STEPS, WELL]
    stub.fail("GetRun", 503, nth=1, times=2)
    stub.fail("GetRun", DROP, nth=4, times=3)
    assert kubeflow.wait(run_id, poll_seconds=0.01).state == "SUCCEEDED"


def test_wait_ends_when_the_server_stays_away(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script = STEPS
    stub.fail("GetRun", 503, nth=2, times=1000)
    with refused(f"Cannot look up the run {run_id}", "HTTP 503"):
        kubeflow.wait(run_id, poll_seconds=0.001)


def test_wait_ends_at_once_when_the_token_has_expired(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.token = "another"
    with refused("HTTP 401"):
        kubeflow.wait(run_id, poll_seconds=60)


def test_terminate_ends_a_run_once(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.terminate(run_id)
    assert stub.runs[run_id]["state"] == "CANCELING"
    assert stub.operations[-1] == "TerminateRun"
    assert kubeflow.wait(run_id, poll_seconds=0.01).state == "FAILED"
    with refused(f"The run {run_id} cannot be stopped: it is FAILED already"):
        kubeflow.terminate(run_id)


def test_status_takes_states_of_the_workflow_where_details_stay_behind(
    run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script, stub.compressed = [STEPS[-1], WELL], True
    assert kubeflow.status(run_id).state == "RUNNING"
    status = kubeflow.status(run_id)
    details = stub.runs[run_id]["run_details"]["task_details"]
    assert [one["state"] for one in details if one["display_name"] == "Train"] == ["RUNNING"]
    assert status.tasks == (TaskStatus("Load", "SUCCEEDED"), TaskStatus("Train", "SUCCEEDED"))


@pytest.mark.parametrize("tasks", [{}, {"Push": "OMITTED"}])
def test_status_of_a_task_that_never_started_is_pending_until_the_run_ends(
    tasks: dict[str, str], run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.planned = ("Load", "Train", "Push")
    stub.script = [{**STEPS[-1]}, {**BADLY, "tasks": BADLY["tasks"] | tasks}]
    states = [{t.name: t.state for t in kubeflow.status(run_id).tasks} for _ in range(2)]
    assert [one["Push"] for one in states] == ["PENDING", "not started"]
    assert states[1] == {"Load": "SUCCEEDED", "Train": "FAILED", "Push": "not started"}


@pytest.mark.parametrize("compressed", [False, True])
def test_status_of_a_run_that_found_nothing_new_shows_what_was_skipped(
    compressed: bool, run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    tasks = {"SpanExampleGen": "SUCCEEDED", "StatisticsGen": "SKIPPED", "DataGate": "OMITTED"}
    stub.planned, stub.compressed = (*tasks, "Transform"), compressed
    stub.script = [{"state": "SUCCEEDED", "tasks": tasks}]
    status = kubeflow.wait(run_id, poll_seconds=0.01)
    assert status.state == "SUCCEEDED"
    assert {task.name: (task.state, task.error) for task in status.tasks} == {
        "SpanExampleGen": ("SUCCEEDED", ""),
        "StatisticsGen": ("SKIPPED", ""),
        "DataGate": ("not started", ""),
        "Transform": ("not started", ""),
    }


def bad_manifests() -> dict[str, str]:
    good = workflow({"Load": "SUCCEEDED"}, planned=(), compressed=False, retry_policy="")
    bomb = base64.b64encode(gzip.compress(b" " * 2**27)).decode()
    cut = base64.b64encode(gzip.compress(b'{"Load": {}}')[:-12]).decode()
    return {
        "not JSON": "{",
        "a list": "[]",
        "deep": "[" * 10**6,
        "no status": json.dumps({**good, "status": None}),
        "nodes that are a list": json.dumps({**good, "status": {"nodes": ["Load"]}}),
        "a bomb": json.dumps({**good, "status": {"compressedNodes": bomb}}),
        "a cut stream": json.dumps({**good, "status": {"compressedNodes": cut}}),
        "not base64": json.dumps({**good, "status": {"compressedNodes": "\u00e4"}}),
        "a number": json.dumps({**good, "status": {"compressedNodes": 7}}),
    }


@pytest.mark.parametrize("kind", bad_manifests())
def test_status_uses_the_details_when_the_workflow_cannot_be_read(
    kind: str, run_id: str, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.script, stub.manifest = [BADLY], bad_manifests()[kind]
    begun = time.monotonic()
    states = {task.name: task.state for task in kubeflow.status(run_id).tasks}
    assert states == {"Load": "SUCCEEDED", "Train": "FAILED"}
    assert time.monotonic() - begun < 5


def test_of_manifest_reads_nodes_of_any_type_and_in_a_circle() -> None:
    nodes: dict[str, Any] = {
        "1": {"displayName": "Load-driver", "phase": 7, "boundaryID": "2", "startedAt": []},
        "2": {"displayName": "Load", "phase": "Failed", "boundaryID": "1", "message": ["x"]},
        "3": {"displayName": {}, "phase": "Failed", "boundaryID": "3", "message": "of nobody"},
        "4": "text",
    }
    nodes["5"] = {"displayName": "executor", "phase": "Failed", "boundaryID": "2", "message": "why"}
    manifest = json.dumps({"spec": {"templates": [1, {"dag": []}]}, "status": {"nodes": nodes}})
    assert task_states.of_manifest(manifest, final=True) == (TaskStatus("Load", "FAILED", "why"),)


def test_nodes_each_of_which_is_part_of_the_next_are_read_soon() -> None:
    node = {"displayName": "Load", "phase": "Failed", "message": "x"}
    nodes = {str(i): {**node, "boundaryID": str(i + 1)} for i in range(20_000)}
    begun = time.monotonic()
    task_states.of_manifest(json.dumps({"status": {"nodes": nodes}}), final=True)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("how", [404, 500, HANG, DROP, HTML])
def test_status_is_known_without_the_workflow(
    how: int | str, run_id: str, stub: KubeflowStub
) -> None:
    stub.script = [BADLY]
    stub.fail("GetWorkflow", how)
    status = KubeflowPipelines(stub.host, timeout=SHORT).status(run_id)
    assert {task.name: task.state for task in status.tasks} == {
        **{"Load": "SUCCEEDED", "Train": "FAILED"}
    }


def test_status_refuses_a_response_that_is_too_large(
    run_id: str, kubeflow: KubeflowPipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_LARGEST_RESPONSE", 100)
    with refused(f"Cannot look up the run {run_id}", "is larger than"):
        kubeflow.status(run_id)


@pytest.mark.parametrize("policy", ["OnError", "Always"])
@pytest.mark.parametrize("retries", [True, False])
def test_submit_warns_where_an_earlier_run_was_not_retried(
    policy: str, retries: bool, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.retry_policy = policy
    package = dataclasses.replace(package, retries=retries)
    assert kubeflow.submit(package, VALUES).warning == ""  # Nothing is known yet.
    warning = kubeflow.submit(package, VALUES).warning
    assert ("retryPolicy: OnError" in warning) == (retries and policy == "OnError")


@pytest.mark.parametrize("act", [KubeflowPipelines.status, KubeflowPipelines.terminate])
def test_kubeflow_client_names_a_missing_run(
    act: Callable[[KubeflowPipelines, str], object], kubeflow: KubeflowPipelines
) -> None:
    with refused("Cannot look up the run no-such", "Run no-such not found (HTTP 404)"):
        act(kubeflow, "no-such")
    with refused("ID of the run is empty"):
        act(kubeflow, " ")


# Schedules


def of_name(stub: KubeflowStub, name: str = "monthly") -> list[dict[str, Any]]:
    return [one for one in stub.recurring_runs.values() if one["display_name"] == name]


def cron_of(recurring_run: dict[str, Any]) -> str:
    cron: str = recurring_run["trigger"]["cron_schedule"]["cron"]
    return cron


def enabled(stub: KubeflowStub) -> list[str]:
    """Cron expressions of what is enabled."""
    return [cron_of(one) for one in of_name(stub) if one["status"] == "ENABLED"]


def test_schedule_runs_a_version_with_all_parameters_one_at_a_time(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    schedule, change = kubeflow.schedule("monthly", CRON, package, VALUES, service_account="me")
    assert change == CREATED
    assert (schedule.name, schedule.cron, schedule.enabled) == ("monthly", "0 0 6 1 * *", True)
    assert schedule.url == f"{stub.host}/#/recurringrun/details/{schedule.schedule_id}"
    (made,) = stub.recurring_runs.values()
    (version,) = stub.versions.values()
    assert cron_of(made) == "0 0 6 1 * *"
    assert made["no_catchup"] is True
    assert made["max_concurrency"] == "1"
    assert made["runtime_config"]["parameters"] == ALL_VALUES == schedule.parameters
    assert made["service_account"] == "me"
    reference = made["pipeline_version_reference"]
    assert reference["pipeline_version_id"] == version["pipeline_version_id"]


def test_schedule_changes_nothing_when_repeated(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    first, _ = kubeflow.schedule("monthly", CRON, package, VALUES)
    calls = len(stub.calls)
    again, change = kubeflow.schedule("monthly", "0 0 6 1 * *", package, ALL_VALUES)
    assert (again, change) == (first, UNCHANGED)
    assert all(operation.startswith("List") for operation in stub.operations[calls:])


CHANGES: dict[str, dict[str, Any]] = {
    "cron": {"cron": OTHER_CRON},
    "parameters": {"parameters": {"epochs": 4}},
    "package": {"package": "other"},
    "experiment": {"experiment": "another"},
    "service account": {"service_account": "another"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_schedule_replaces_the_old_one_when_its_content_changes(
    what: str, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    given: dict[str, Any] = {"cron": CRON, "package": package, "parameters": VALUES}
    first, _ = kubeflow.schedule("monthly", **given)
    given |= CHANGES[what]
    if given["package"] == "other":
        given["package"] = changed(package)
    second, change = kubeflow.schedule("monthly", **given)
    assert change == UPDATED
    assert list(stub.recurring_runs) == [second.schedule_id] != [first.schedule_id]
    assert second.enabled
    assert len(enabled(stub)) == 1
    assert stub.most_enabled["monthly"] == 1
    assert kubeflow.schedule("monthly", **given) == (second, UNCHANGED)


def test_schedule_keeps_schedules_of_other_names_on_any_page(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.largest_page = 2
    names = ["a", "A", "a+b", "a b", "100%"]
    for cron in (CRON, OTHER_CRON):
        for name in names:
            kubeflow.schedule(name, cron, package, VALUES)
    assert [schedule.name for schedule in kubeflow.schedules()] == sorted(names)
    assert {schedule.cron for schedule in kubeflow.schedules()} == {"0 0 7 2 * *"}


@pytest.mark.parametrize("how", [500, DROP, DROP_AFTER])
@pytest.mark.parametrize(
    "operation", ["CreateRecurringRun", "DisableRecurringRun", "EnableRecurringRun"]
)
def test_schedule_keeps_the_old_one_if_an_update_fails(
    operation: str,
    how: int | str,
    package: Package,
    stub: KubeflowStub,
    kubeflow: KubeflowPipelines,
) -> None:
    kubeflow.schedule("monthly", CRON, package, VALUES)
    before = stub.state
    stub.fail(operation, how)
    if (operation, how) == ("CreateRecurringRun", DROP_AFTER):
        # It was created, which is found out: nothing has failed.
        assert kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)[1] == UPDATED
        assert enabled(stub) == ["0 0 7 2 * *"]
        assert len(stub.recurring_runs) == 1
        return
    other = changed(package)
    with refused("Cannot ", f"deleted again: version {other.version}"):
        kubeflow.schedule("monthly", OTHER_CRON, other, VALUES)
    assert stub.state == before
    assert enabled(stub) == ["0 0 6 1 * *"]
    assert stub.most_enabled["monthly"] == 1


def test_schedule_cleans_up_an_undeleted_old_one_when_repeated(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.schedule("monthly", CRON, package, VALUES)
    stub.fail("DeleteRecurringRun", 500)
    with refused("Cannot delete", "the schedule that 'monthly' replaces"):
        kubeflow.schedule("monthly", OTHER_CRON, changed(package), VALUES)
    assert enabled(stub) == ["0 0 7 2 * *"]
    assert len(of_name(stub)) == len(stub.versions) == 2
    assert kubeflow.schedule("monthly", OTHER_CRON, changed(package), VALUES)[1] == UPDATED
    assert enabled(stub) == ["0 0 7 2 * *"]
    assert len(of_name(stub)) == stub.most_enabled["monthly"] == 1


STEPS_OF_AN_UPDATE = (
    "CreateRecurringRun",
    "DisableRecurringRun",
    "EnableRecurringRun",
    "DeleteRecurringRun",
)


@pytest.mark.parametrize("cron", [CRON, OTHER_CRON, "0 8 3 * *"])
@pytest.mark.parametrize("step", STEPS_OF_AN_UPDATE)
def test_schedule_repairs_an_update_killed_after_any_step(
    step: str, cron: str, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    """The next command may have the old content, the new one, or another."""
    kubeflow.schedule("monthly", CRON, package, VALUES)
    stub.die_after(step)
    with contextlib.suppress(KubeflowError):
        kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)
    stub.revive()
    assert len(enabled(stub)) == (0 if step == "DisableRecurringRun" else 1)
    schedule, _ = kubeflow.schedule("monthly", cron, package, VALUES)
    assert enabled(stub) == [six_fields(cron)]
    assert list(stub.recurring_runs) == [schedule.schedule_id]
    assert stub.most_enabled["monthly"] == 1


def test_schedule_reports_an_update_that_cannot_be_undone(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.schedule("monthly", CRON, package, VALUES)
    stub.die_after("DisableRecurringRun")
    with refused("Cannot enable the schedule 'monthly'", "Nor could that be undone", "run the com"):
        kubeflow.schedule("monthly", OTHER_CRON, changed(package), VALUES)
    assert len(stub.versions) == 2  # the schedule uses it


@pytest.mark.parametrize("step", [None, *STEPS_OF_AN_UPDATE])
def test_schedule_stays_disabled_when_it_is_updated(
    step: str | None, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.schedule("monthly", CRON, package, VALUES)
    kubeflow.disable_schedule("monthly")
    if step:
        stub.die_after(step)
        with contextlib.suppress(KubeflowError):
            kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)
        stub.revive()
    schedule, change = kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)
    assert not schedule.enabled
    assert list(stub.recurring_runs) == [schedule.schedule_id]
    assert enabled(stub) == []
    assert kubeflow.schedule("monthly", OTHER_CRON, package, VALUES) == (schedule, UNCHANGED)
    assert change in (UPDATED, UNCHANGED)


def test_schedule_with_a_run_in_progress_is_not_replaced_or_deleted(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.largest_page = 2
    schedule, _ = kubeflow.schedule("monthly", CRON, package, VALUES)
    for _ in range(3):
        kubeflow.submit(package, VALUES)
    run_id = stub.start_scheduled_run(schedule.schedule_id)
    stub.runs[run_id]["created_at"] = stub.recurring_runs[schedule.schedule_id]["created_at"]
    before = stub.state
    with refused("'monthly' cannot be replaced while its run", run_id, "wait until it is over"):
        kubeflow.schedule("monthly", OTHER_CRON, changed(package), VALUES)
    with refused("'monthly' cannot be deleted while its run", run_id):
        kubeflow.delete_schedule("monthly")
    assert kubeflow.schedule("monthly", CRON, package, VALUES)[1] == UNCHANGED
    assert stub.state == before
    assert stub.runs[run_id]["state"] == "RUNNING"
    stub.runs[run_id]["state"] = "SUCCEEDED"
    assert kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)[1] == UPDATED
    kubeflow.delete_schedule("monthly")
    assert not stub.recurring_runs


def test_schedule_update_does_not_stop_a_run_that_begins_meanwhile(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    schedule, _ = kubeflow.schedule("monthly", CRON, package, VALUES)
    stub.before["DisableRecurringRun"] = lambda: stub.start_scheduled_run(schedule.schedule_id)
    with refused("the schedule that 'monthly' replaces", "while its run", "is in progress"):
        kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)
    assert enabled(stub) == ["0 0 7 2 * *"]
    (run,) = stub.runs.values()
    assert run["state"] == "RUNNING"
    run["state"] = "SUCCEEDED"
    assert kubeflow.schedule("monthly", OTHER_CRON, package, VALUES)[1] == UPDATED
    assert len(of_name(stub)) == stub.most_enabled["monthly"] == 1


def test_schedule_counts_a_run_without_a_state_as_in_progress(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    schedule, _ = kubeflow.schedule("monthly", CRON, package, VALUES)
    run_id = stub.start_scheduled_run(schedule.schedule_id, state=None)
    with refused("'monthly' cannot be deleted while its run", run_id):
        kubeflow.delete_schedule("monthly")


def test_schedule_makes_several_of_a_name_one(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.schedule("monthly", CRON, package, VALUES)
    (one,) = stub.recurring_runs.values()
    for number in range(3):
        stub.recurring_runs[f"copy-{number}"] = {**one, "recurring_run_id": f"copy-{number}"}
    with refused("There are 4 schedules 'monthly'"):
        kubeflow.enable_schedule("monthly")
    assert kubeflow.schedule("monthly", CRON, package, VALUES)[1] == UPDATED
    assert len(of_name(stub)) == len(enabled(stub)) == 1


def test_schedule_leaves_nothing_when_it_is_refused(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    stub.fail("CreateRecurringRun", 500)
    with refused("Cannot create the schedule 'monthly'", "HTTP 500", "deleted again"):
        kubeflow.schedule("monthly", CRON, package, VALUES)
    with refused("has 2 fields"):
        kubeflow.schedule("monthly", "0 6", package, VALUES)
    with refused("name of the schedule is empty"):
        kubeflow.schedule(" ", CRON, package, VALUES)
    assert not any(stub.state.values())


def test_schedule_is_disabled_enabled_listed_and_deleted_by_name(
    package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.schedule("monthly", CRON, package, VALUES)
    kubeflow.schedule("other", CRON, package, VALUES)
    kubeflow.disable_schedule("monthly")
    assert [(one.name, one.enabled) for one in kubeflow.schedules()] == [
        ("monthly", False),
        ("other", True),
    ]
    kubeflow.enable_schedule("monthly")
    assert len(enabled(stub)) == 1
    kubeflow.delete_schedule("monthly")
    assert [one.name for one in kubeflow.schedules()] == ["other"]


@pytest.mark.parametrize(
    "act",
    [
        KubeflowPipelines.enable_schedule,
        KubeflowPipelines.disable_schedule,
        KubeflowPipelines.delete_schedule,
    ],
)
def test_schedule_that_is_missing_is_named_with_those_there_are(
    act: Callable[[KubeflowPipelines, str], None], package: Package, kubeflow: KubeflowPipelines
) -> None:
    with refused("There is no schedule 'monthly'; there are: none"):
        act(kubeflow, "monthly")
    kubeflow.schedule("weekly", CRON, package, VALUES)
    with refused("There is no schedule 'monthly'; there are: weekly"):
        act(kubeflow, "monthly")


# The server that these tests run against


@pytest.fixture
def plain(stub: KubeflowStub) -> kfp.Client:
    """kfp's own client, which checks nothing beforehand."""
    return kfp.Client(stub.host, namespace="any")


def test_kubeflow_stub_refuses_what_the_real_server_refuses(
    plain: kfp.Client, package: Package, stub: KubeflowStub, kubeflow: KubeflowPipelines
) -> None:
    kubeflow.submit(package, VALUES)
    (experiment,), (version,) = stub.experiments, stub.versions.values()
    reference = {
        "pipeline_id": version["pipeline_id"],
        "version_id": version["pipeline_version_id"],
    }
    run = {"params": VALUES, **reference}
    schedule = {"experiment_id": experiment, "job_name": "x", **run}
    named = kfp_server_api.V2beta1Pipeline(display_name="toy-pipeline")
    refusals: list[tuple[int, str, Callable[[], Any]]] = [
        (400, "Expected 5 to 6 fields, found 4", lambda: cron("0 6 1 *")),
        (400, "End of range (60) above maximum (59)", lambda: cron("60 0 6 1 * *")),
        (400, "at least 1 and at most 10", lambda: cron("0 0 6 1 * *", max_concurrency=11)),
        (404, "Experiment no not found", lambda: cron("0 0 6 1 * *", experiment_id="no")),
        (500, "version not found", lambda: cron("0 0 6 1 * *", version_id="no")),
        (404, "Run no not found", lambda: plain.get_run("no")),
        (404, "Job no not found", lambda: plain.enable_recurring_run("no")),
        (404, "Job no not found", lambda: plain.delete_recurring_run("no")),
        (400, "has existing pipeline versions", lambda: plain.delete_pipeline(*stub.pipelines)),
        (409, "already exist", lambda: plain.pipelines.pipeline_service_create_pipeline(named)),
        (400, "Invalid page token", lambda: plain.list_runs(page_token="x")),
        (400, "failed to parse valid filter", lambda: plain.list_runs(filter="x")),
        (400, "epochs is not optional", lambda: cron("0 0 6 1 * *", params={})),
        (404, "Pipeline no not found", lambda: plain.list_pipeline_versions("no")),
        (500, "name is empty", lambda: plain.run_pipeline(experiment, "", **run)),
        (500, "Experiment.Name length cannot", lambda: plain.create_experiment("e" * 129)),
        (500, "Data too long", lambda: plain.run_pipeline(experiment, "r" * 256, **run)),
    ]

    def cron(expression: str, **changes: Any) -> Any:
        given = {"no_catchup": True, "cron_expression": expression, **schedule, **changes}
        return plain.create_recurring_run(**given)

    for status, reason, call in refusals:
        with pytest.raises(kfp_server_api.ApiException) as caught:
            call()
        assert caught.value.status == status, reason
        assert reason in caught.value.body
    assert stub.orphans == 1  # of the run whose name is too long


def test_kubeflow_stub_reports_an_unknown_field_without_details(stub: KubeflowStub) -> None:
    api_client = kfp_server_api.ApiClient(kfp_server_api.Configuration(stub.host))
    with pytest.raises(kfp_server_api.ApiException) as caught:
        api_client.call_api("/apis/v2beta1/runs", "POST", body={"nonsense": 1})
    assert json.loads(caught.value.body) == {
        **{"code": 3, "message": 'proto: (line 1:2): unknown field "nonsense"', "details": []}
    }


def test_kubeflow_stub_stops_a_run_once_and_lets_it_fail(
    plain: kfp.Client, run_id: str, stub: KubeflowStub
) -> None:
    plain.terminate_run(run_id)
    with pytest.raises(kfp_server_api.ApiException, match="Row not found"):
        plain.terminate_run(run_id)
    assert stub.runs[run_id]["state"] == "CANCELING"
    assert plain.get_run(run_id).state == "FAILED"


def test_kubeflow_stub_lists_every_node_twice_and_no_error(
    plain: kfp.Client, run_id: str, stub: KubeflowStub
) -> None:
    stub.script = [{**BADLY, "tasks": {**BADLY["tasks"], "Push": "OMITTED"}}]
    nodes = {one.display_name: one for one in plain.get_run(run_id).run_details.task_details}
    assert {"Train", "Train(0)", "Train-driver", "Train-driver(0)"} <= set(nodes)
    assert nodes["Push"].state is None
    assert all(one.error is None for one in nodes.values())
    assert nodes["root"].end_time.year == 1  # it is running
