"""Whole runs of the pipeline by its command line, on small real data."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from rich.console import Console

from ml.artifacts import EXPLANATIONS_FILE
from orchestration.local.compilation import compile_nodes
from orchestration.local.nodes import run_nodes
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.situation import prepare
from pipeline.config import load_config
from pipeline.pipeline import DATA_NODES, create_pipeline
from storage.span_store import STORE_VARIABLE
from tests import forked
from tests.conftest import Cli, PushedRun, read_month, thin, write_span

NODES = (
    "ImportSchemaGen",
    "SpanExampleGen",
    "StatisticsGen",
    "ExampleValidator",
    "ServedModel",
    "DataGate",
    "Transform",
    "BaselineEvaluator",
    "Trainer",
    "Pruner",
    "Quantizer",
    "CompressionEvaluator",
    "Evaluator",
    "Explainer",
    "ServingValidator",
    "Pusher",
)


def final_states(screen: str) -> dict[str, str]:
    """The last state that the screen shows of each node."""
    states = {}
    for line in screen.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] in NODES:
            states[words[0]] = words[1]
    return states


@pytest.fixture
def after_push(pushed: PushedRun, tmp_path: Path) -> Cli:
    """The command line on a copy of the output directory of a run that pushed a version.

    ML Metadata in the copy still names the artifacts of the original, which stay as they are.
    """
    shutil.copytree(pushed.cli.output, tmp_path / "output")
    return Cli(pushed.cli.data, tmp_path / "output")


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_local_run_pushes_a_version_that_tensorflow_loads(pushed: PushedRun) -> None:
    loaded = tf.saved_model.load(str(pushed.version))
    assert set(loaded.signatures) == {"serving_default", "raw_features", "classify", "regress"}


def test_local_run_shows_every_node_complete_with_its_result(pushed: PushedRun) -> None:
    assert final_states(pushed.screen) == dict.fromkeys(NODES, "complete")
    for result in (
        r"\d train, \d+ eval, [\d,]+ test rows; trained on 201301 to 201302, evaluated on 201303",
        r"nothing is served yet",
        r"epoch 1 of 2, step \d+ of \d+, loss 0\.\d+",
        r"7\d\.\d% of the weights are zero or removed \(too few steps for 84%\), and \d+ of \d+ "
        r"units removed; eval AUC 0\.\d{4}, was 0\.\d",
        r"int8: model\.tflite [\d.]+ kB, [\d.]+ times smaller than float; [\d.]+ µs a row",
        r"blessed; AUC [+-]0\.\d{4} ±0\.\d{4} against float, [+-]0\.\d{4} at worst \(\w+:\w+\)",
        r"blessed; AUC 0\.\d{4} ±0\.\d{4}, AUC-PR 0\.\d{4}",
        r"blessed; 200 rows, p99 [\d.]+ ms over gRPC, [\d.]+ ms over REST; ready in [\d.]+ s",
        r"Pushed version \d+ to .*serving_model",
    ):
        assert re.search(result, pushed.screen), result


def test_local_run_leaves_a_page_of_all_that_it_measured(pushed: PushedRun) -> None:
    (page,) = pushed.cli.directory.glob("reports/*/report.html")
    assert f"Report: {page}" in pushed.screen
    html = page.read_text(encoding="utf-8")
    assert "cannot be shown" not in html
    (run,) = pushed.cli.directory.glob("runs/*.json")
    nodes = json.loads(run.read_text())["nodes"]
    assert set(nodes) == set(NODES)
    assert nodes["Evaluator"]["line"].split(";")[1].strip() in html
    titles = ("Loss by epoch", "Quality by size", "ROC curve", "Calibration", "Scores by label")
    for title in titles:
        assert f"<figcaption>{title}</figcaption><svg" in html, title
    facts = json.loads(page.with_name("report.json").read_text())
    metrics = pushed.version.parent / ".flightdeck" / pushed.version.name / "metrics.json"
    overall = json.loads(metrics.read_text())["Overall"]
    assert facts["headline"]["value"] == overall["auc"]
    assert facts["bytes"] == (pushed.version / "model.tflite").stat().st_size
    assert "training.epochs" in html[html.index('id="configuration"') :]
    index = (pushed.cli.output / "index.html").read_text(encoding="utf-8")
    assert str(page.relative_to(pushed.cli.output)) in index
    assert f"Version {pushed.version.name} of trip_delay is live" in index


def test_local_run_shows_no_logs_of_libraries(pushed: PushedRun) -> None:
    strange = [
        line
        for line in pushed.screen.splitlines()
        if line and not line.startswith((*NODES, "Importing TFX", "Pushed version", "Report: "))
    ]
    assert strange == []
    (logs,) = (pushed.cli.directory / "logs").iterdir()
    assert {f"{node}.log" for node in NODES} <= {path.name for path in logs.iterdir()}
    assert "Running launcher" in (logs / "Trainer.log").read_text()


def test_local_run_records_the_provenance_of_its_version(pushed: PushedRun) -> None:
    folder = pushed.version.parent / ".flightdeck" / pushed.version.name
    record = json.loads((folder / "provenance.json").read_text())
    assert record["spans"] == {"train": [201301, 201302], "test": [201303]}
    assert record["rows"]["test"] == read_rows(pushed, "test")
    assert 0.5 < record["metrics"]["auc"] < 1
    assert record["libraries"]["tensorflow"] == tf.__version__
    assert record["artifacts"]["Model"]["execution_id"] > 0
    assert (folder / "schema.pbtxt").read_text() == Path(load_config().gate.schema).read_text()
    assert (folder / "training_statistics.pb").stat().st_size > 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"Overall", "company:UA", "origin:JFK"} <= metrics.keys()


def read_rows(pushed: PushedRun, split: str) -> int:
    files = sorted((pushed.artifact("SpanExampleGen", "examples") / f"Split-{split}").iterdir())
    return sum(1 for _ in tf.data.TFRecordDataset([str(f) for f in files], "GZIP"))


def test_local_run_trainer_leaves_logs_for_tensorboard(pushed: PushedRun) -> None:
    run = pushed.artifact("Trainer", "model_run")
    events = list(run.rglob("events.out.tfevents.*"))
    tags = {
        value.tag
        for path in events
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert {"epoch_loss", "epoch_data_loss"} <= tags


def test_local_run_refuses_a_served_version_that_lost_files(after_push: Cli) -> None:
    """Even with nothing new: a model server that starts again could not load the version."""
    (version,) = after_push.versions()
    (version / "variables" / "variables.index").unlink()
    done = after_push.run("--as-of", "201303")
    assert done.returncode == 1
    line = f"version {version.name} of trip_delay lost files"
    assert line in done.stdout
    assert "variables/variables.index is missing or cut short" in done.stdout
    assert "Traceback" not in done.stdout


def test_local_run_with_nothing_new_says_so_and_pushes_nothing(after_push: Cli) -> None:
    before = tree(after_push.output)
    done = after_push.run("--as-of", "201303")
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing new: version ")
    assert tree(after_push.output) == before


def run_alone(cli: Cli, folder: Path, month: int, nodes: tuple[str, ...]) -> Path:
    """Runs nodes for a month with nothing kept and nothing beside them; returns what they made."""
    forked.start_server()
    directory = OutputDirectory(folder)
    directory.logs("alone").mkdir(parents=True)
    config = load_config(settings=[f"data.uri={cli.data}", f"data.as_of={month}"])
    prepared = prepare(config, directory)
    pipeline = create_pipeline(
        prepared.config,
        pipeline_root=str(directory.artifacts),
        serving_dir=str(directory.serving),
        fingerprint=prepared.window.fingerprint,
        metadata_path=str(directory.metadata),
    )
    screen = Console(file=io.StringIO())
    compiled = compile_nodes(pipeline, "alone", prepared.code_version, nodes)
    run_nodes(compiled, prepared.config, directory, "alone", screen, {STORE_VARIABLE: ""})
    return directory.artifacts / "alone"


def read_files(run: Path, output: str) -> dict[str, list[tf.train.Example]]:
    """The examples of each file; protobuf writes their features in any order."""
    (folder,) = run.glob(f"{output}/*")
    return {
        str(path.relative_to(folder)): [
            tf.train.Example.FromString(record)
            for record in tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
        ]
        for path in folder.glob("*/*")
    }


def test_backtest_runs_the_data_nodes_of_the_next_month_ahead_with_the_same_result(
    after_push: Cli, tmp_path: Path
) -> None:
    # All of the first month but what depends on the Serving directory comes from the cache.
    shutil.rmtree(after_push.output / "serving_model")
    shutil.rmtree(after_push.directory / "runs")
    done = after_push.run("--from", "201303", "--to", "201304", command="backtest")
    assert done.returncode == 0, done.stdout
    assert "drift: compared" in done.stdout
    assert len(after_push.versions()) == 2
    now, then = done.stdout.split("201304, 2 of 2")
    for node in DATA_NODES:
        assert re.search(rf"^{node} of 201304 +(complete|cached)", now, re.MULTILINE), node
        assert final_states(then)[node] == "cached"
    old, _ = after_push.versions()
    state = json.loads((after_push.directory / "backtest.json").read_text())
    run = after_push.directory / "artifacts" / state["months"][1]["run_id"]
    alone = run_alone(
        *(after_push, tmp_path / "alone", 201304),
        ("ImportSchemaGen", "SpanExampleGen", "Transform"),
    )
    for output in ("SpanExampleGen/examples", "Transform/transformed_examples"):
        assert read_files(run, output) == read_files(alone, output) != {}
    runs = after_push.directory.glob("artifacts/*/Evaluator/evaluation/*")
    newest = max(runs, key=lambda path: int(path.name))
    assert '"isBaseline": true' in (newest / "eval_config.json").read_text()

    first, second = json.loads((after_push.directory / "backtest.json").read_text())["months"]
    for month, version in zip((first, second), after_push.versions(), strict=True):
        assert month["version"] == int(version.name)
        provenance = version.parent / ".flightdeck" / version.name / "provenance.json"
        assert month["new_score"] == json.loads(provenance.read_text())["metrics"]["auc"]
        assert 0.5 < month["baseline_score"] < 1
    assert (first["served_version"], first["served_score"], first["drift"]) == (None, None, None)
    assert second["served_version"] == int(old.name)
    assert 0.5 < second["served_score"] == second["first_score"] != second["new_score"]
    feature, drift, limit = second["drift"]
    assert 0 < drift < limit
    assert f"{feature} {drift:.2g} of {limit:g}" in done.stdout
    assert re.search(rf"^201304 .* pushed version {second['version']}", done.stdout, re.MULTILINE)
    assert (after_push.directory / "backtest.csv").read_text().count("\n") == 3
    assert (after_push.directory / "backtest.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "201304", "--to", "201303"), "--from 201304 comes after --to 201303"),
        (("--from", "201303", "--to", "201306"), "span-201305 is not in"),
        (("--from", "201301", "--to", "201302"), "nothing to train on"),
        (("--from", "201303", "--to", "201304", "--compare", "few"), "NAME:KEY=VALUE[,KEY=VALUE]"),
        (
            ("--from", "201303", "--to", "201304", "--compare", "a:training.epoch=3"),
            "did you mean training.epochs?",
        ),
        (
            ("--from", "201303", "--to", "201304", "--compare", "base:training.epochs=3"),
            "the name 'base' is taken",
        ),
        (("--from", "201303", "--to", "201313"), "a month YYYYMM is expected"),
    ],
)
def test_backrefuses_wrong_arguments_at_once(
    small_spans: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = Cli(small_spans, tmp_path / "output").run(*arguments, command="backtest")
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert not (tmp_path / "output").exists()


def test_backtest_refuses_the_directory_of_other_runs(after_push: Cli) -> None:
    before = tree(after_push.output)
    done = after_push.run("--from", "201304", "--to", "201304", command="backtest")
    assert done.returncode == 2
    assert "which is not of this backtest; choose another directory" in done.stdout
    assert tree(after_push.output) == before


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runs keep temporary files; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_local_run_does_not_push_below_thresholds_or_over_budgets_and_tells_why(
    after_push: Cli, temporary: Path
) -> None:
    before = tree(after_push.output / "serving_model")
    done = after_push.run(
        *("--as-of", "201303", "--set", "compression.max_bytes=1000"),
        *("--set", "compression.min_sparsity=0.99", "--set", "compression.max_p99_ms=1e-6"),
        *("--set", "compression.max_slice_loss=0", "--set", "compression.max_loss=0"),
        *("--set", "evaluation.thresholds.auc=0.99", "--set", "serving.max_memory_mb=1"),
    )
    assert done.returncode == 4
    for reason in (
        r"Overall: AUC 0\.\d{4} ±0\.\d{4}, at least 0\.99 is required",
        r"max_bytes: model\.tflite has [\d,]+ bytes, [\d,]+ more than the 1,000 allowed",
        r"min_sparsity: 0\.\d+ of the weights are zero, 0\.\d+ less than the 0\.99 required",
        r"max_p99_ms: a row takes 0\.\d+ ms \(99th percentile\), 0\.\d+ ms more than",
        r"TFLite: the server took [\d.]+ MB, [\d.]+ more than the 1 that max_memory_mb allows",
        r"(tflite|saved_model) AUC 0\.\d{4}, 0\.\d{4} worse than the float model's 0\.\d{4}",
    ):
        assert re.search(reason, done.stdout), (reason, done.stdout)
    assert tree(after_push.output / "serving_model") == before
    # Only thresholds changed, so only what depends on them, and on what is served, ran again.
    states = final_states(done.stdout)
    assert {n for n in NODES if states[n] == "cached"} == {
        "ImportSchemaGen",
        "SpanExampleGen",
        "StatisticsGen",
        "ExampleValidator",
        "BaselineEvaluator",
        "Transform",
        "Trainer",  # And neither Pruner nor Quantizer, which take `max_loss` too.
    }
    # Nothing that Beam, TensorFlow or the model server wrote there stays.
    assert list(temporary.iterdir()) == []


def test_local_run_publishes_what_a_server_explains_its_own_model_with(
    pushed: PushedRun,
) -> None:
    from serving.server.explaining import read_background
    from serving.server.models import load_model

    explanations = pushed.artifact("Explainer", "explanations")
    content = json.loads((explanations / EXPLANATIONS_FILE).read_text())
    assert content["rows"] == 100
    assert {"company", "temp"} <= {one["feature"] for one in content["importance"]}
    provenance = pushed.version.parent / ".flightdeck" / pushed.version.name
    for prefer_tflite in (True, False):
        model = load_model(str(pushed.version), prefer_tflite=prefer_tflite, concurrency=1)
        background = read_background(str(provenance), model)
        assert background is not None
        rows = {name: array[:3] for name, array in background.inputs.items()}
        found = background.explain(model, rows, time.monotonic() + 60)
        predictions = model.run("raw_features", rows, ["probability"], 60)["probability"]
        np.testing.assert_allclose(found.values.sum(axis=1) + found.base, predictions, atol=1e-4)
        # Of the same background; the served format alone may differ.
        np.testing.assert_allclose(found.base, content["base_values"], atol=0.02)


def test_local_run_stops_at_the_gate_for_a_bad_label(after_push: Cli, tmp_path: Path) -> None:
    spans = copy_spans(after_push, tmp_path)
    month = pa.Table.from_batches(thin(read_month(201303), 1000).to_batches())
    labels = month["delayed"].to_pylist()
    labels[17] = 7
    index = month.schema.get_field_index("delayed")
    write_span(spans, 201303, month.set_column(index, month.field(index), [pa.array(labels)]))
    before = tree(after_push.output / "serving_model")
    done = Cli(spans, after_push.output).run("--as-of", "201303")
    page = Path(done.stdout.rpartition("Report: ")[2].strip()).read_text(encoding="utf-8")
    assert re.search(r'name">DataGate<.*?stopped the run.*?delayed', page, re.DOTALL)
    assert 'bad-text">delayed<' in page
    assert done.returncode == 3
    assert re.search(r"test: delayed: INT_TYPE_BIG_INT: .*7\. .*0 to 1", done.stdout), done.stdout
    states = final_states(done.stdout)
    assert states["DataGate"] == "failed"
    assert all(states[n] == "skipped" for n in ("Transform", "Trainer", "Evaluator", "Pusher"))
    assert states["ExampleValidator"] == "complete"
    assert tree(after_push.output / "serving_model") == before


def test_local_run_fails_for_a_truncated_file_and_names_it(after_push: Cli, tmp_path: Path) -> None:
    spans = copy_spans(after_push, tmp_path)
    path = spans / "span-201304" / "trips.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    before = tree(after_push.output / "serving_model")
    done = Cli(spans, after_push.output).run()
    assert done.returncode == 1
    assert f"{path} is not a readable Parquet file" in done.stdout
    assert "Traceback" not in done.stdout
    assert re.search(r"log: .*/SpanExampleGen\.log", done.stdout)
    assert tree(after_push.output / "serving_model") == before


def test_local_run_stops_cleanly_at_ctrl_c(after_push: Cli) -> None:
    before = tree(after_push.output / "serving_model")
    # All before the Trainer is in the cache.
    command = after_push.command("--as-of", "201303", "--set", "training.epochs=500")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    screen = ""
    assert process.stdout is not None
    for line in process.stdout:
        screen += line
        if "epoch 1 of 500" in line:
            break
    process.send_signal(signal.SIGINT)
    screen += process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "Stopped." in screen
    assert "Traceback" not in screen
    assert wait_until_gone(process.pid)
    assert tree(after_push.output / "serving_model") == before


def copy_spans(cli: Cli, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cli.data, tmp_path / "spans"))


def wait_until_gone(session: int) -> bool:
    """Whether no process of a session is left, soon."""
    for _ in range(100):
        listed = subprocess.run(
            ["ps", "-o", "pid=", "-s", str(session)], stdout=subprocess.PIPE, text=True, check=False
        )
        if not listed.stdout.strip():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--set", "data.uri=nowhere"), 1, "data directory 'nowhere' does not exist"),
        (("--as-of", "201405"), 1, "span-201405 is not in"),
        (("--as-of", "201301"), 1, "nothing to train on"),
        (("--as-of", "201313"), 2, "data.as_of = '201313': a month YYYYMM is expected"),
        (("--window", "0"), 2, "data.window = '0': Input should be greater than or equal to 1"),
        (("--set", "training.epoch=3"), 2, "did you mean training.epochs?"),
        (("--config", "none.toml"), 2, "configuration file none.toml"),
        (("--set", "gate.schema=none.pbtxt"), 1, "none.pbtxt cannot be read"),
        (("--output", "/proc/output"), 1, "/proc/output/models/tests.trips cannot be written"),
    ],
)
def test_local_run_refuses_wrong_arguments_at_once(
    small_spans: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = Cli(small_spans, tmp_path / "output").run(*arguments)
    assert done.returncode == status
    assert message in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout


def test_local_run_names_a_corrupt_metadata_file_and_leaves_it(after_push: Cli) -> None:
    database = after_push.directory / "metadata.sqlite"
    database.write_bytes(b"not a database at all" * 100)
    before = tree(after_push.output)
    done = after_push.run("--as-of", "201304")
    assert done.returncode == 1
    assert f"{database} is corrupt" in done.stdout
    after = tree(after_push.output)
    assert {name: after[name] for name in before} == before
