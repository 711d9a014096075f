"""Tests of the commands of kubeflow_runner.py that talk to Kubeflow Pipelines, over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kubeflow_runner import main
from tests.orchestration.kubeflow_stub import HTML, PACKAGE, KubeflowStub

PROJECT = Path(__file__).parents[1]
VARIABLES = ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_NAMESPACE", "KF_PIPELINES_TOKEN")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowStub]:
    with KubeflowStub() as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.host)
        yield running


@pytest.fixture
def package(tmp_path: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(PACKAGE)
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def failed(*arguments: str, status: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result.output


def submit(package: str, *arguments: str) -> tuple[str, ...]:
    return ("submit", "--package", package, "--param", "epochs=3", *arguments)


def schedule(package: str, *arguments: str) -> tuple[str, ...]:
    return ("schedule", "--package", package, "--param", "epochs=3", *arguments)


# submit, status, terminate


def test_submit_prints_what_was_uploaded_and_where_to_look(
    package: str, stub: KubeflowStub
) -> None:
    uploaded, started = done(*submit(package)).splitlines()
    (run_id,) = stub.runs
    (version,) = stub.versions.values()
    assert uploaded == f"Uploaded version {version['name']} of the pipeline toy-pipeline."
    assert started == f"Started run {run_id}: {stub.host}/#/runs/details/{run_id}"
    again, _ = done(*submit(package, "--run-name", "again")).splitlines()
    assert again == f"Already there: version {version['name']} of the pipeline toy-pipeline."


def test_submit_options_reach_the_server(package: str, stub: KubeflowStub) -> None:
    done(
        *submit(package, "--param", "rate=0.1", "--param", "uri=s3://a=b", "--no-cache"),
        *("--pipeline-name", "mine", "--experiment", "nightly", "--run-name", "first"),
        *("--service-account", "trainer"),
    )
    ((submitted,), (pipeline,), (experiment,)) = (
        stub.runs.values(),
        stub.pipelines.values(),
        stub.experiments.values(),
    )
    assert submitted["runtime_config"]["parameters"] == {
        **{"epochs": 3, "rate": 0.1, "uri": "s3://a=b"},
        "window": 6,
    }
    assert (submitted["display_name"], submitted["service_account"]) == ("first", "trainer")
    assert (pipeline["name"], experiment["display_name"]) == ("mine", "nightly")
    (version,) = stub.versions.values()
    task = version["pipeline_spec"]["root"]["dag"]["tasks"]["train"]
    assert "enableCache" not in task["cachingOptions"]


def test_submit_wait_prints_each_change_and_succeeds(package: str, stub: KubeflowStub) -> None:
    stub.script = [
        {"state": "RUNNING", "tasks": {"Load": "RUNNING"}},
        {"state": "RUNNING", "tasks": {"Load": "SUCCEEDED", "Train": "RUNNING"}},
        {"state": "SUCCEEDED", "tasks": {"Load": "SUCCEEDED", "Train": "SUCCEEDED"}},
    ]
    _, _, *lines, last = done(*submit(package, "--wait", "--poll-seconds", "0.01")).splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in lines] == [
        *("Load  RUNNING", "Load  SUCCEEDED", "Train  RUNNING", "Train  SUCCEEDED"),
    ]
    assert last == "The run ended as SUCCEEDED."


FAILURE: dict[str, Any] = {
    "state": "FAILED",
    "tasks": {"Load": "SUCCEEDED", "Train": ("FAILED", "out of memory")},
}


def test_submit_wait_of_a_failed_run_names_task_error_and_link(
    package: str, stub: KubeflowStub
) -> None:
    stub.script = [FAILURE]
    output = failed(*submit(package, "--wait", "--poll-seconds", "0.01"))
    (run_id,) = stub.runs
    assert output.endswith(
        f"The run ended as FAILED: Train: out of memory\n{stub.host}/#/runs/details/{run_id}\n"
    )


def test_status_shows_tasks_with_their_errors(package: str, stub: KubeflowStub) -> None:
    done(*submit(package, "--run-name", "nightly"))
    stub.script = [FAILURE]
    (run_id,) = stub.runs
    first, times, *tasks, link = done("status", run_id).splitlines()
    assert first == "nightly: FAILED"
    assert re.fullmatch(r"created at \d{4}-\S+ \S+ \S+; over at \d{4}-\S+ \S+ \S+", times)
    assert tasks == ["  Load   SUCCEEDED", "  Train  FAILED: out of memory"]
    assert link == f"{stub.host}/#/runs/details/{run_id}"


def test_terminate_ends_a_run_once(package: str, stub: KubeflowStub) -> None:
    done(*submit(package))
    (run_id,) = stub.runs
    assert f"Terminating run {run_id}" in done("terminate", run_id)
    stub.runs[run_id]["state"] = "CANCELED"
    assert f"The run {run_id} cannot be stopped: it is CANCELED already." in failed(
        "terminate", run_id
    )


def test_submit_wait_leaves_the_run_when_interrupted_and_tells_how_to_stop_it(
    package: str, stub: KubeflowStub
) -> None:
    stub.script = [{"state": "RUNNING", "tasks": {"Load": "RUNNING"}}]
    command = submit(package, "--wait", "--poll-seconds", "0.05")
    process = subprocess.Popen(
        [sys.executable, "kubeflow_runner.py", *command],
        cwd=PROJECT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout
    for line in process.stdout:
        if "Load  RUNNING" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=30) == 130
    (run_id,) = stub.runs
    assert rest == (f"The run goes on; to stop it: python kubeflow_runner.py terminate {run_id}\n")
    assert stub.runs[run_id]["state"] == "RUNNING"


# schedule, schedules


def test_schedule_prints_created_unchanged_or_updated(package: str, stub: KubeflowStub) -> None:
    created, link = done(*schedule(package, "--cron", "0 6 1 * *")).splitlines()
    (schedule_id,) = stub.recurring_runs
    assert created.startswith("Schedule toy-pipeline was created: version ")
    assert "runs at 0 0 6 1 * * (second, minute, hour, day, month, weekday)." in created
    assert link == f"{stub.host}/#/recurringrun/details/{schedule_id}"
    again = done(*schedule(package, "--cron", "0 6 1 * *"))
    assert again.startswith("Schedule toy-pipeline is unchanged: version ")
    other = done(*schedule(package, "--cron", "0 7 1 * *"))
    assert other.startswith("Schedule toy-pipeline was updated: version ")
    assert len(stub.recurring_runs) == 1


def test_schedules_are_listed_disabled_enabled_and_deleted(
    package: str, stub: KubeflowStub
) -> None:
    assert done("schedules", "list") == "There are no schedules.\n"
    done(*schedule(package, "--cron", "0 6 1 * *", "--name", "monthly"))
    done(*schedule(package, "--cron", "0 6 * * mon", "--name", "weekly"))
    assert done("schedules", "disable", "monthly") == "Schedule monthly is disabled.\n"
    rows = [line.split("  ") for line in done("schedules", "list").splitlines()]
    assert [[cell.strip() for cell in row if cell.strip()][:3] for row in rows] == [
        ["monthly", "disabled", "0 0 6 1 * *"],
        ["weekly", "enabled", "0 0 6 * * mon"],
    ]
    again = done(*schedule(package, "--cron", "0 8 1 * *", "--name", "monthly"))
    assert "It is disabled: python kubeflow_runner.py schedules enable monthly\n" in again
    assert done("schedules", "enable", "monthly") == "Schedule monthly is enabled.\n"
    assert done("schedules", "delete", "weekly") == "Schedule weekly is deleted.\n"
    assert "weekly" not in done("schedules", "list")
    assert "There is no schedule 'weekly'; there are: monthly." in failed(
        "schedules", "delete", "weekly"
    )


def test_submit_warns_of_a_deployment_that_retries_nothing(
    package: str, stub: KubeflowStub
) -> None:
    retried = PACKAGE.replace("taskInfo:", "retryPolicy: {maxRetryCount: 2}\n        taskInfo:")
    Path(package).write_text(retried)
    done(*submit(package))
    result = run(*submit(package))
    assert result.exit_code == 0
    assert "Warning: Tasks that fail will not be tried again" in result.stderr
    assert "retryPolicy: OnError" in result.stderr


# What they cost


def modules_of(*arguments: str) -> set[str]:
    """What a command imports."""
    script = (
        "import runpy, sys\ntry: runpy.run_path('kubeflow_runner.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\nprint(*sys.modules, sep='\\n')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.split())


def test_help_imports_no_heavy_library() -> None:
    heavy = {"pydantic", "pyarrow", "urllib3", "yaml", "kfp", "kfp_server_api", "tensorflow", "tfx"}
    assert not heavy & modules_of("--help")


def test_status_imports_neither_the_sdk_nor_the_client_of_kubernetes(
    package: str, stub: KubeflowStub
) -> None:
    done(*submit(package))
    imported = modules_of("status", next(iter(stub.runs)))
    assert "kfp_server_api" in imported
    assert not {"kfp", "kubernetes", "tensorflow", "tfx", "pyarrow"} & imported


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--param", "epochs=3", "--param", "epoch=3"), "there is no parameter 'epoch'"),
        (("--param", "epochs=many"), "parameter 'epochs' is 'many', but a whole number"),
        (("--param", "epochs"), "NAME=VALUE is expected"),
        ((), "parameter 'epochs' is missing"),
        (("--param", "epochs=3", "--set", "data.window=3"), "--package excludes"),
        (("--param", "epochs=3", "--token-file", "no-such-file"), "no-such-file"),
        (("--param", "epochs=3", "--timeout", "0"), "--timeout"),
    ],
)
def test_kubeflow_runner_wrong_usage_has_status_2_and_sends_no_request(
    arguments: tuple[str, ...], reason: str, package: str, stub: KubeflowStub
) -> None:
    for command in (("submit",), ("schedule", "--cron", "0 6 1 * *")):
        output = failed(*command, "--package", package, *arguments, status=2)
        assert reason in " ".join(output.split())
    assert stub.calls == []


def test_schedule_refuses_a_wrong_cron_expression_as_wrong_usage(
    package: str, stub: KubeflowStub
) -> None:
    output = failed(*schedule(package, "--cron", "0 6 1 *"), status=2)
    assert "has 4 fields" in output
    assert "allowed are 5 fields" in output
    assert stub.calls == []


def test_kubeflow_runner_refusal_has_status_1_and_one_line(
    package: str, stub: KubeflowStub
) -> None:
    stub.fail("CreateRun", HTML)
    (line,) = failed(*submit(package)).splitlines()
    assert line.startswith("Cannot start the run 'toy-pipeline ")
    assert "--token-file" in line
    assert not any(stub.state.values())
    (line,) = failed("status", "no-such").splitlines()
    assert line == "Cannot look up the run no-such: Run no-such not found (HTTP 404)."


def test_kubeflow_runner_without_an_address_tells_how_to_give_one(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    ended = subprocess.run(
        [sys.executable, "kubeflow_runner.py", "schedules", "list"],
        cwd=PROJECT,
        env={**environment, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "give --host or set KF_PIPELINES_ENDPOINT" in ended.stderr
    assert "kubectl port-forward" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


# The one pipeline, compiled on the way

CONFIGURED = (
    *("--set", f"kubeflow.image=flightdeck@sha256:{'0' * 64}"),
    *("--set", "kubeflow.volume_claim=flightdeck", "--set", "training.epochs=9"),
)


def test_submit_sends_the_pipeline_with_the_value_of_every_parameter(stub: KubeflowStub) -> None:
    done("submit", *CONFIGURED, "--param", "data_as_of=201310")
    done("submit", *CONFIGURED, "--param", "training_epochs=3")
    (version,) = stub.versions.values()
    # The server keeps the two documents of a package under a name each.
    spec = version["pipeline_spec"]["pipeline_spec"]
    declared = spec["root"]["inputDefinitions"]["parameters"]
    first, second = (run["runtime_config"]["parameters"] for run in stub.runs.values())
    assert first.keys() == second.keys() == declared.keys()
    assert (first["data_as_of"], first["training_epochs"]) == (201310, 9)
    assert (second["data_as_of"], second["training_epochs"]) == (0, 3)
    assert first["data_uri"] == "/mnt/flightdeck/tests/trips/data"


def test_schedule_of_the_pipeline_is_made_once(stub: KubeflowStub) -> None:
    command = ("schedule", "--cron", "0 6 1 * *", "--name", "monthly", *CONFIGURED)
    assert "was created" in done(*command)
    assert "is unchanged" in done(*command)
    (recurring,) = stub.recurring_runs.values()
    assert recurring["display_name"] == "monthly"


def test_schedule_trains_on_what_is_new_unless_told_otherwise(stub: KubeflowStub) -> None:
    def scheduled(*arguments: str) -> str:
        done("schedule", "--cron", "0 6 1 * *", *CONFIGURED, *arguments)
        (recurring,) = stub.recurring_runs.values()
        value: str = recurring["runtime_config"]["parameters"]["only_if_new"]
        return value

    key = scheduled()
    assert key == scheduled()
    # Other parameters, and another package, are a reason to train again.
    keys = {key, scheduled("--param", "training_epochs=3"), scheduled("--set", "serving.rows=9")}
    assert len(keys - {""}) == 3
    assert scheduled("--always") == ""
    done("submit", *CONFIGURED)
    (run,) = stub.runs.values()
    assert run["runtime_config"]["parameters"]["only_if_new"] == ""


def test_schedules_start_runs_what_the_schedule_would(stub: KubeflowStub) -> None:
    done("schedule", "--cron", "0 6 1 * *", *CONFIGURED)
    name = "flightdeck-training-trip-delay"
    (recurring,) = stub.recurring_runs.values()
    assert f"of the schedule {name}" in done("schedules", "start", name)
    assert f"of the schedule {name}" in done("schedules", "start", name)
    assert len(stub.runs) == 2
    for run in stub.runs.values():
        for field in ("runtime_config", "pipeline_version_reference", "experiment_id"):
            assert run[field] == recurring[field]
    done("schedules", "disable", name)
    assert f"None of the schedules '{name}' is enabled" in failed("schedules", "start", name)
    assert "There is no schedule 'monthly'" in failed("schedules", "start", "monthly")
    assert len(stub.runs) == 2


def test_schedules_of_two_models_have_their_names_and_replace_each_other_never(
    stub: KubeflowStub,
) -> None:
    command = ("schedule", "--cron", "0 6 1 * *", *CONFIGURED, "--model", "tests.trips")
    other = (*command, "--set", "model_name=taxi_tips")
    for _ in range(2):
        done(*command)
        done(*other)
    names = ["flightdeck-training-taxi-tips", "flightdeck-training-trip-delay"]
    listed = done("schedules", "list").splitlines()
    assert [line.split()[0] for line in listed] == names
    assert sorted(pipeline["name"] for pipeline in stub.pipelines.values()) == names
    assert len(stub.recurring_runs) == 2


def test_schedule_warns_of_the_schedule_of_an_earlier_release(stub: KubeflowStub) -> None:
    command = ("schedule", "--cron", "0 6 1 * *", *CONFIGURED)
    done(*command, "--name", "flightdeck")
    assert "schedules delete flightdeck" in done(*command)
    done("schedules", "disable", "flightdeck")
    assert "schedules delete flightdeck" not in done(*command)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--model", "tests.trips", "--set", "model=other"), "contradict each other"),
        (("--model", "gone"), "model = 'gone': there is no such folder"),
    ],
)
@pytest.mark.parametrize("command", ["compile", "submit", "schedule"])
def test_kubeflow_runner_refuses_a_model_that_is_not_one(
    command: str, arguments: tuple[str, ...], reason: str, stub: KubeflowStub
) -> None:
    cron = ("--cron", "0 6 1 * *") if command == "schedule" else ()
    output = failed(command, *cron, *CONFIGURED, *arguments, status=2)
    assert reason in " ".join(output.split())
    assert not any(stub.state.values())


def test_submit_of_a_package_takes_no_model(stub: KubeflowStub, package: str) -> None:
    output = failed("submit", "--package", package, "--model", "tests.trips", status=2)
    assert "--package excludes --model, --config and --set" in " ".join(output.split())


MONITORING = ("submit", "--pipeline", "monitoring", *CONFIGURED)


def test_submit_sends_the_monitoring_pipeline_with_version_and_period(
    stub: KubeflowStub,
) -> None:
    period = ("--param", "since=2013-10-01", "--param", "until=1383264000")
    done(*MONITORING, "--param", "version=3", *period)
    (submitted,), (pipeline,) = stub.runs.values(), stub.pipelines.values()
    assert pipeline["name"] == "flightdeck-monitoring-trip-delay"
    assert submitted["runtime_config"]["parameters"] == {
        **{"serving_dir": "/mnt/flightdeck/serving_model", "log_uri": "/mnt/flightdeck/requests"},
        **{"version": 3, "since": 1380585600, "until": 1383264000, "days": 28},
    }


def test_schedule_of_the_monitoring_pipeline_leaves_version_and_period_open(
    stub: KubeflowStub,
) -> None:
    done("schedule", "--cron", "0 7 * * mon", *MONITORING[1:], "--param", "days=7")
    (recurring,) = stub.recurring_runs.values()
    assert recurring["display_name"] == "flightdeck-monitoring-trip-delay"
    assert recurring["runtime_config"]["parameters"] == {
        **{"serving_dir": "/mnt/flightdeck/serving_model", "log_uri": "/mnt/flightdeck/requests"},
        **{"version": 0, "since": 0, "until": 0, "days": 7},
    }


PERIODS = [
    (("--param", "since=5", "--param", "until=5"), "since=5 is not before until=5"),
    (("--param", "version=-1"), "a whole number, or a time"),
    (("--param", "days=0"), "days 1 to 3660"),
]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        *PERIODS,
        (("--param", "version=x"), "a whole number, or a time such as 2013-10-01"),
        (("--param", "data_as_of=201310"), "the name is one of days, log_uri, serving_dir"),
        (("--param", "log_uri="), "a path or an address is expected"),
    ],
)
def test_submit_refuses_wrong_parameters_of_the_monitoring_pipeline(
    arguments: tuple[str, ...], reason: str, stub: KubeflowStub
) -> None:
    output = failed(*MONITORING, *arguments, status=2)
    assert reason in " ".join(output.split())
    period = ("--param", "since=2013-10-01")
    output = failed("schedule", "--cron", "0 6 * * *", *MONITORING[1:], *period, status=2)
    assert "would monitor the same one again" in " ".join(output.split())
    assert not any(stub.state.values())


PREDICTION = ("submit", "--pipeline", "prediction", *CONFIGURED)
TABLE = ("--param", "input_uri=days/monday.csv", "--param", "output_uri=gs://bucket/monday")


def test_submit_sends_the_prediction_pipeline_with_a_table(stub: KubeflowStub) -> None:
    done(
        *PREDICTION,
        *TABLE,
        "--param",
        "label=stable",
        "--param",
        "explain=true",
        *("--param", "output_format=parquet"),
    )
    (submitted,), (pipeline,) = stub.runs.values(), stub.pipelines.values()
    assert pipeline["name"] == "flightdeck-prediction-trip-delay"
    assert submitted["runtime_config"]["parameters"] == {
        "serving_dir": "/mnt/flightdeck/serving_model",
        "input_uri": "/mnt/flightdeck/days/monday.csv",
        "output_uri": "gs://bucket/monday",
        **{"version": 0, "label": "stable", "model_format": "", "explain": 1},
        "output_format": "parquet",
    }


def test_schedule_of_the_prediction_pipeline_writes_each_run_to_a_folder_of_its_own(
    stub: KubeflowStub,
) -> None:
    output = "gs://bucket/[[ScheduledTime.2006-01-02]]"
    table = ("--param", "input_uri=days/today", "--param", f"output_uri={output}")
    done("schedule", "--cron", "0 6 * * *", *PREDICTION[1:], *table)
    (recurring,) = stub.recurring_runs.values()
    assert recurring["runtime_config"]["parameters"]["output_uri"] == output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "input_uri and output_uri must be given"),
        (TABLE[:2], "output_uri must be given, as in --param output_uri=gs://bucket/path"),
        ((*TABLE, "--param", "version=new"), "a version, or 0, is expected"),
        ((*TABLE, "--param", "version=3", "--param", "label=stable"), "not both"),
        ((*TABLE, "--param", "model_format=onnx"), "is none of tflite, saved_model"),
        ((*TABLE, "--param", "output_format=xlsx"), "is none of parquet, csv, jsonl"),
        ((*TABLE, "--param", "rows=5"), "the name is one of explain, input_uri, label"),
        ((*TABLE, "--param", "explain=maybe"), "one of 0, 1, false, true is expected"),
    ],
)
def test_submit_refuses_wrong_parameters_of_the_prediction_pipeline(
    arguments: tuple[str, ...], reason: str, stub: KubeflowStub
) -> None:
    output = failed(*PREDICTION, *arguments, status=2)
    assert reason in " ".join(output.split())
    output = failed("schedule", "--cron", "0 6 * * *", *PREDICTION[1:], *TABLE, status=2)
    assert "each run of a schedule needs a folder of its own" in " ".join(output.split())
    assert not any(stub.state.values())


def test_paths_of_the_monitoring_pipeline_are_on_the_volume(stub: KubeflowStub) -> None:
    period = ("--param", "since=1", "--param", "until=2", "--param", "version=3")
    done(*MONITORING, *period, "--param", "log_uri=more/requests")
    (submitted,) = stub.runs.values()
    assert submitted["runtime_config"]["parameters"]["log_uri"] == "/mnt/flightdeck/more/requests"


def test_read_job_checks_the_period_of_a_monitoring_package(
    stub: KubeflowStub, tmp_path: Path
) -> None:
    path = str(tmp_path / "monitoring.yaml")
    done("compile", "--pipeline", "monitoring", *CONFIGURED, "--output", path)
    for number in ("version=-1", "days=0"):
        output = failed("submit", "--package", path, "--param", number, status=2)
        assert "version, since and until are 0 or more" in " ".join(output.split())
    period = ("--param", "since=1", "--param", "until=2", "--param", "version=3")
    output = failed("schedule", "--cron", "0 6 * * *", "--package", path, *period, status=2)
    assert "monitor the same one again" in " ".join(output.split())
    assert not any(stub.state.values())
    done("submit", "--package", path, *period)


def test_schedule_refuses_a_configuration_that_would_cache_the_data(
    stub: KubeflowStub, small_spans: Path
) -> None:
    pinned = ("--set", 'kubeflow.uncached=["Pusher"]', "--set", f"data.uri={small_spans}")
    output = failed("schedule", "--cron", "0 6 1 * *", *CONFIGURED, *pinned, status=2)
    assert "kubeflow.uncached lacks SpanExampleGen" in output
    assert not any(stub.state.values())
