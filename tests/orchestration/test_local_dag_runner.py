"""Tests of the concurrent runner with real node processes from a real fork server."""

import io
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from orchestration.local import dag_runner as local_dag_runner
from orchestration.local.dag_runner import SKIPPED, ConcurrentDagRunner, Node
from orchestration.local.fork_server import start_fork_server
from orchestration.local.node_process import CACHED, COMPLETE, FAILED, NodeResult, Summary
from orchestration.local.output_directory import OutputDirectory
from pipeline.config import load_config

Components = list[Any]

PATIENCE_SECONDS = 8.0


def node_processes() -> set[str]:
    """Names of the processes of nodes that have not ended."""
    return {process.name for process in multiprocessing.active_children()}


@dataclass
class Recorder:
    """A `RunObserver` that keeps what it is told, and loses patience with a run that hangs."""

    events: list[tuple[str, str]] = field(default_factory=list)
    progress: list[tuple[str, str]] = field(default_factory=list)
    patience: float = 60.0
    born: float = field(default_factory=time.monotonic)

    def started(self, node_id: str) -> None:
        self.events.append(("started", node_id))

    def progressed(self, node_id: str, text: str) -> None:
        self.progress.append((node_id, text))

    def finished(self, node_id: str, result: NodeResult) -> None:
        self.events.append((result.state, node_id))

    def tick(self) -> None:
        if time.monotonic() - self.born > self.patience:
            raise TimeoutError(f"the run hangs after {self.events}")


class InterruptedWhen(Recorder):
    """Ctrl-C as soon as a condition holds."""

    def __init__(self, condition: Callable[["InterruptedWhen"], bool]):
        super().__init__()
        self.condition = condition
        self.pids: list[int] = []

    def tick(self) -> None:
        super().tick()
        if self.condition(self):
            self.pids = [p.pid for p in multiprocessing.active_children() if p.pid]
            raise KeyboardInterrupt


@dataclass
class Lab:
    """An output directory, and pipelines of toys that run in it."""

    output: OutputDirectory
    runs: int = 0

    def pipeline(self, components: Components) -> Any:
        from tfx import v1 as tfx

        return tfx.dsl.Pipeline(
            pipeline_name="toys",
            pipeline_root=str(self.output.artifacts),
            components=components,
            enable_cache=True,
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
                str(self.output.metadata)
            ),
        )

    def run(
        self,
        components: Components,
        observer: Recorder | None = None,
        *,
        code_version: Callable[[str, str], str] = lambda executor, parameters: "1",
        workers: int = 2,
        logs: bool = True,
        only: tuple[str, ...] = (),
        time_limits: Mapping[str, float] | None = None,
    ) -> dict[str, NodeResult]:
        from orchestration.local import tfx_internals

        self.runs += 1
        if logs:
            self.output.logs(self.run_id).mkdir(parents=True, exist_ok=True)
        compiled = tfx_internals.compile_pipeline(
            self.pipeline(components), self.run_id, code_version
        )
        runner = ConcurrentDagRunner(
            self.output,
            "toy_components.summarize",
            observer or Recorder(),
            workers=workers,
            time_limits=time_limits or {},
        )
        upstream = tfx_internals.node_ids(compiled)
        if only:
            upstream = dict.fromkeys(only, ())
        serialized = compiled.SerializeToString()
        return runner.run({n: Node(n, serialized, self.run_id, upstream[n]) for n in upstream})

    def run_with_ahead(
        self, components: Components, following: Components | None = None
    ) -> tuple[dict[str, NodeResult], str]:
        """Runs a pipeline as a backtest does; returns what the screen shows, too."""
        from orchestration.local.compilation import add_ahead, compile_nodes
        from orchestration.local.nodes import run_nodes

        self.runs += 1
        screen, later = io.StringIO(), f"run-{self.runs + 1}"
        version: Any = lambda executor, parameters: "1"  # noqa: E731
        nodes = compile_nodes(self.pipeline(components), self.run_id, version)
        if following:
            nodes = add_ahead(nodes, self.pipeline(following), later, "201304", version)
        console = Console(file=screen, width=120)
        results = run_nodes(nodes, load_config(), self.output, self.run_id, console, {})
        return results, screen.getvalue()

    @property
    def run_id(self) -> str:
        return f"run-{self.runs}"

    def log(self, node_id: str) -> Path:
        return self.output.logs(self.run_id) / f"{node_id}.log"

    def store(self) -> Any:
        from orchestration.local import tfx_internals

        return tfx_internals.LockedMetadata(
            str(self.output.metadata), str(self.output.metadata_lock)
        )

    def recorded_states(self) -> dict[str, str]:
        """What ML Metadata says of each node's last execution."""
        from ml_metadata.proto import metadata_store_pb2

        with self.store() as metadata:
            states = {}
            for execution in sorted(metadata.store.get_executions(), key=lambda e: e.id):
                contexts = metadata.store.get_contexts_by_execution(execution.id)
                (node,) = (c.name for c in contexts if c.type == "node")
                state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
                states[node.removeprefix("toys.")] = state
            return states


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The toy components. They take as long to import as the fork server does; at the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)  # Not everybody's shell sets it.
        start_fork_server(tmp_path_factory.mktemp("fork_server") / "imports.log")
    import toy_components

    return toy_components


@pytest.fixture
def lab(toys: ModuleType, tmp_path: Path) -> Iterator[Lab]:
    output = OutputDirectory(tmp_path / "output")
    output.root.mkdir()
    yield Lab(output)
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def states(results: dict[str, NodeResult]) -> dict[str, str]:
    return {node_id: result.state for node_id, result in results.items()}


def diamond(toys: ModuleType, text: str = "a") -> Components:
    top = toys.Source(text=text).with_id("Top")
    note = top.outputs["note"]
    left = toys.Join(left=note, right=note, separator="-").with_id("Left")
    right = toys.Join(left=note, right=note, separator="+").with_id("Right")
    bottom = toys.Join(left=left.outputs["note"], right=right.outputs["note"]).with_id("Bottom")
    return [bottom, right, left, top]


def meeting(toys: ModuleType, folder: Path, seconds: float = 60.0) -> Components:
    """Two nodes, each of which waits for the other."""
    one, two = str(folder / "one"), str(folder / "two")
    return [
        toys.Wait(touch=one, file=two, seconds=seconds).with_id("One"),
        toys.Wait(touch=two, file=one, seconds=seconds).with_id("Two"),
    ]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_runner_runs_nodes_when_their_inputs_are_done(lab: Lab, toys: ModuleType) -> None:
    recorder = Recorder()
    results = lab.run(diamond(toys), recorder)
    assert states(results) == dict.fromkeys(["Top", "Left", "Right", "Bottom"], COMPLETE)
    assert results["Bottom"].summary.line == "a-aa+a"
    position = {event: i for i, event in enumerate(recorder.events)}
    for before, after in [
        ("Top", "Left"),
        ("Top", "Right"),
        ("Left", "Bottom"),
        ("Right", "Bottom"),
    ]:
        assert position[COMPLETE, before] < position["started", after]
        ended, began = results[before].summary.details[1], results[after].summary.details[0]
        assert float(ended) < float(began)


def test_runner_runs_independent_nodes_at_the_same_time(
    lab: Lab, toys: ModuleType, tmp_path: Path
) -> None:
    results = lab.run(meeting(toys, tmp_path))
    assert states(results) == {"One": COMPLETE, "Two": COMPLETE}


def _link_to_copy(text: Path) -> None:
    text.rename(text.parents[1] / "copy")
    text.symlink_to(text.parents[1] / "copy")


def _link_to_nothing(text: Path) -> None:
    text.unlink()
    text.symlink_to("nothing")


def _write_other_content(text: Path) -> None:
    text.write_text("A" * text.stat().st_size)
    os.utime(text, (0, 0))


def _replace_folder_by_file(text: Path) -> None:
    shutil.rmtree(text.parent)
    text.parent.touch()


# What may happen to the one file of an old output.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "FolderGone": lambda text: shutil.rmtree(text.parent),
    "FolderEmpty": Path.unlink,
    "CutShort": lambda text: os.truncate(text, 1),
    "OtherContent": _write_other_content,
    "LinkToCopy": _link_to_copy,
    "LinkToNothing": _link_to_nothing,
    "FolderIsFile": _replace_folder_by_file,
    "OneMore": lambda text: text.with_name("more").touch(),
}


def test_runner_repeats_a_node_whose_outputs_were_damaged(lab: Lab, toys: ModuleType) -> None:
    names = [*DAMAGES, "Whole", "NotNoted"]

    def components() -> Components:
        sources = {name: toys.Source(text=f"text of {name}").with_id(name) for name in names}
        notes = {name: source.outputs["note"] for name, source in sources.items()}
        after = [
            toys.Join(left=notes["Whole"], right=notes["CutShort"]).with_id("AfterCutShort"),
            toys.Join(left=notes["Whole"], right=notes["Whole"]).with_id("AfterWhole"),
        ]
        return [*sources.values(), toys.Empty(), *after]

    first = lab.run(components())
    for name, damage in DAMAGES.items():
        (text,) = lab.output.artifacts.glob(f"run-1/{name}/note/*/text")
        damage(text)
    with lab.store() as metadata:  # As if its process had been killed just before that.
        (uri,) = lab.output.artifacts.glob("run-1/NotNoted/note/*")
        (note,) = metadata.store.get_artifacts_by_uri(str(uri))
        del note.custom_properties["manifest"]
        metadata.store.put_artifacts([note])
    second = lab.run(components())
    assert states(second) == {
        **dict.fromkeys([*DAMAGES, "NotNoted", "AfterCutShort"], COMPLETE),
        # That of ServedModel is without files, too, while nothing is served.
        **dict.fromkeys(["Whole", "Empty", "AfterWhole"], CACHED),
    }
    assert {n: r.summary.line for n, r in second.items()} == {
        n: r.summary.line for n, r in first.items()
    }
    assert "Not taken from the cache" in lab.log("CutShort").read_text()
    assert set(states(lab.run(components())).values()) == {CACHED}


def month(toys: ModuleType, span: Any, baseline: Any, trainer: Any) -> Components:
    """Some nodes with the names that they have in a run."""
    span, baseline = span.with_id("SpanExampleGen"), baseline.with_id("BaselineEvaluator")
    note = span.outputs["note"]
    transform = toys.Join(left=note, right=note).with_id("Transform")
    trainer = trainer.with_id("Trainer")
    trainer.add_upstream_node(transform)
    validator = toys.Source(text="valid").with_id("ServingValidator")
    validator.add_upstream_node(trainer)
    return [span, baseline, transform, trainer, validator]


def test_data_nodes_of_the_next_run_go_ahead_and_it_takes_them_from_the_cache(
    lab: Lab, toys: ModuleType, tmp_path: Path
) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    def following() -> Components:
        failing = toys.Fail(kind="DataError", message="a month without rows")
        return month(toys, toys.Wait(touch=one, file=two), failing, toys.Source(text="other"))

    training = toys.Wait(touch=two, file=one)
    now = month(toys, toys.Source(text="a"), toys.Source(text="b"), training)
    results, screen = lab.run_with_ahead(now, following())
    own = ["SpanExampleGen", "BaselineEvaluator", "Transform", "Trainer", "ServingValidator"]
    assert states(results) == dict.fromkeys(own, COMPLETE)
    events = re.findall(r"^(\w+(?: of 201304)?) +(\w+)", screen, re.MULTILINE)
    ends = dict(events)
    ahead = {name: state for name, state in ends.items() if name.endswith(" of 201304")}
    assert ahead == {
        "SpanExampleGen of 201304": COMPLETE,
        "BaselineEvaluator of 201304": FAILED,
        "Transform of 201304": COMPLETE,
    }
    for name, state in ahead.items():
        for before in own[:3]:  # Else both would make the same things at once.
            assert events.index((before, COMPLETE)) < events.index((name, "running"))
        assert events.index((name, state)) < events.index(("ServingValidator", "running"))
    # What goes ahead gives way.
    assert f"niceness {os.nice(0)}\n" in lab.log("Trainer").read_text()
    gone_ahead = lab.output.logs("run-2") / "SpanExampleGen.log"
    assert f"niceness {os.nice(0) + 10}\n" in gone_ahead.read_text()

    results, _ = lab.run_with_ahead(following())
    assert states(results) == {
        **dict.fromkeys(["SpanExampleGen", "Transform", "ServingValidator"], CACHED),
        "BaselineEvaluator": FAILED,
        "Trainer": COMPLETE,
    }
    assert results["BaselineEvaluator"].summary.line == "a month without rows"
    # All that a run is made of is in its own folders, whoever made it.
    folders = {path.relative_to(lab.output.artifacts).parts[0] for path in transforms(lab)}
    assert folders == {"run-1", "run-2"}
    assert "Not taken" not in lab.log("Transform").read_text()


def transforms(lab: Lab) -> list[Path]:
    return list(lab.output.artifacts.glob("*/Transform/note/*"))


def test_next_run_does_not_go_ahead_where_this_one_has_no_data(lab: Lab, toys: ModuleType) -> None:
    def components(span: Any) -> Components:
        return month(toys, span, toys.Source(text="b"), toys.Source(text="c"))

    now, following = components(toys.Fail()), components(toys.Source(text="a"))
    results, screen = lab.run_with_ahead(now, following)
    assert results["SpanExampleGen"].state == FAILED
    assert results["Trainer"].state == SKIPPED
    assert not re.search("of 201304 +(running|complete)", screen)


def test_runner_deletes_temporary_files_and_lets_libraries_clean_up(
    lab: Lab, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    exited = tmp_path / "exited"
    results = lab.run(
        [
            toys.LeaveFiles(socket="yes", exited=str(exited)).with_id("Good"),
            toys.LeaveFiles(hang=1).with_id("Hanging"),
            toys.LeaveFiles(die=1).with_id("Killed"),
        ]
    )
    assert states(results) == {"Good": COMPLETE, "Hanging": COMPLETE, "Killed": FAILED}
    one, other = (Path(results[name].summary.line) for name in ("Good", "Hanging"))
    assert one.parent == other.parent != temporary
    assert one != other
    assert exited.exists()
    assert not one.parent.exists()
    assert not list(temporary.iterdir())
    assert not lab.output.temporary.exists()


def test_runner_starts_a_node_while_the_one_before_cleans_up(lab: Lab, toys: ModuleType) -> None:
    @dataclass
    class AtStart(Recorder):
        beside: list[set[str]] = field(default_factory=list)

        def started(self, node_id: str) -> None:
            self.beside.append(node_processes() - {node_id})
            super().started(node_id)

    recorder = AtStart()
    hanging = toys.LeaveFiles(hang=1).with_id("Hanging")
    after = toys.Shout(note=hanging.outputs["note"]).with_id("After")

    results = lab.run([hanging, after], recorder, workers=1)

    assert states(results) == {"Hanging": COMPLETE, "After": COMPLETE}
    assert recorder.beside == [set(), {"Hanging"}]
    assert not node_processes()


def test_runner_works_with_metadata_that_is_empty_or_gone(lab: Lab, toys: ModuleType) -> None:
    lab.run([toys.Source(text="a")])
    for lose in (lambda: os.truncate(lab.output.metadata, 0), lab.output.metadata.unlink):
        lose()
        with lab.output.locked():
            assert states(lab.run([toys.Source(text="a")])) == {"Source": COMPLETE}


def test_runner_runs_no_more_nodes_than_workers(lab: Lab, toys: ModuleType, tmp_path: Path) -> None:
    recorder = Recorder()
    results = lab.run(meeting(toys, tmp_path, seconds=0.5), recorder, workers=1)
    assert results["One"].summary.line == "TimeoutError: two never came"
    assert [what for what, _ in recorder.events] == ["started", FAILED, "started", COMPLETE]


def test_runner_stops_nodes_after_a_failure_and_resumes_there(
    lab: Lab, toys: ModuleType, tmp_path: Path
) -> None:
    corrected = tmp_path / "corrected"

    def components() -> Components:
        good = toys.Source(text="good").with_id("Good")
        bad = toys.Fail(message="not yet", unless=str(corrected)).with_id("Bad")
        both = toys.Join(left=good.outputs["note"], right=bad.outputs["note"]).with_id("Both")
        last = toys.Join(left=both.outputs["note"], right=both.outputs["note"]).with_id("Last")
        # Nothing but the failure of `Bad` lets this one go on.
        other = toys.Wait(file=str(lab.output.logs("run-1") / "Bad.log")).with_id("Other")
        end = toys.Join(left=other.outputs["note"], right=good.outputs["note"]).with_id("End")
        return [good, bad, both, last, other, end]

    first = lab.run(components(), workers=3)
    assert states(first) == {
        "Good": COMPLETE,
        "Bad": FAILED,
        "Both": SKIPPED,
        "Last": SKIPPED,
        "Other": COMPLETE,
        "End": COMPLETE,
    }
    assert first["Both"].summary.line == "needs Bad"
    assert first["Last"].summary.line == "needs Both"
    assert lab.recorded_states() == {
        "Good": "COMPLETE",
        "Bad": "FAILED",
        "Other": "COMPLETE",
        "End": "COMPLETE",
    }

    corrected.touch()
    second = lab.run(components(), workers=3)
    assert states(second) == {
        "Good": CACHED,
        "Bad": COMPLETE,
        "Both": COMPLETE,
        "Last": COMPLETE,
        "Other": CACHED,
        "End": CACHED,
    }
    assert second["Last"].summary.line == "goodcorrected" * 2
    assert second["End"].summary == first["End"].summary
    assert lab.recorded_states()["Good"] == "CACHED"
    assert lab.recorded_states()["Bad"] == "COMPLETE"


def test_runner_repeats_only_what_changed_and_what_follows(lab: Lab, toys: ModuleType) -> None:
    everything = ["Top", "Left", "Right", "Bottom"]

    def new_code_of_right(executor: str, parameters: str) -> str:
        return "2" if '"+"' in parameters else "1"

    lab.run(diamond(toys, "a"))
    unchanged = lab.run(diamond(toys, "a"))
    assert states(unchanged) == dict.fromkeys(everything, CACHED)
    new_parameter = lab.run(diamond(toys, "b"))
    assert states(new_parameter) == dict.fromkeys(everything, COMPLETE)
    new_code = lab.run(diamond(toys, "b"), code_version=new_code_of_right)
    assert states(new_code) == {
        "Top": CACHED,
        "Left": CACHED,
        "Right": COMPLETE,
        "Bottom": COMPLETE,
    }
    back = lab.run(diamond(toys, "a"))
    assert states(back) == dict.fromkeys(everything, CACHED)
    assert back["Bottom"].summary.line == "a-aa+a"


def test_runner_repeats_a_node_whose_artifact_is_gone(lab: Lab, toys: ModuleType) -> None:
    lab.run(diamond(toys))
    (text,) = lab.output.artifacts.rglob("Left/note/*/text")
    shutil.rmtree(text.parent)
    results = lab.run(diamond(toys))
    assert states(results) == {
        "Top": CACHED,
        "Left": COMPLETE,
        "Right": CACHED,
        "Bottom": COMPLETE,
    }


def test_runner_never_mixes_artifacts_with_those_of_lost_metadata(
    lab: Lab, toys: ModuleType
) -> None:
    lab.run([toys.Source(text="old").with_id("Top")])
    (text,) = lab.output.artifacts.rglob("text")
    (text.parent / "shard-of-the-old-run").touch()
    lab.output.metadata.unlink()  # What the message about a corrupt file tells people to do.
    lab.run([toys.Source(text="new").with_id("Top")])
    (new,) = (p.parent for p in lab.output.artifacts.rglob("text") if p.read_text() == "new")
    assert [path.name for path in new.iterdir()] == ["text"]


def test_runner_reports_a_dead_process_with_its_signal_or_status(
    lab: Lab, toys: ModuleType
) -> None:
    results = lab.run(
        [
            toys.Kill(number=9).with_id("Killed"),
            toys.Kill(number=11).with_id("Crashed"),
            toys.Exit(status=3).with_id("Left"),
            toys.Exit(status=0).with_id("LeftQuietly"),
        ]
    )
    assert {node_id: r.summary.line for node_id, r in results.items()} == {
        "Killed": "the process of the node was killed by SIGKILL",
        "Crashed": "the process of the node was killed by SIGSEGV",
        "Left": "the process of the node exited with status 3",
        "LeftQuietly": "the process of the node exited with status 0",
    }
    assert states(results) == dict.fromkeys(results, FAILED)
    assert set(lab.recorded_states().values()) == {"RUNNING"}

    from orchestration.local import tfx_internals

    assert tfx_internals.cancel_unfinished(lab.store()) == 4
    assert set(lab.recorded_states().values()) == {"CANCELED"}
    assert tfx_internals.cancel_unfinished(lab.store()) == 0


def test_runner_reports_a_signal_without_a_name(lab: Lab, toys: ModuleType) -> None:
    results = lab.run([toys.Kill(number=40).with_id("Killed")])
    assert results["Killed"].state == FAILED
    assert "40" in results["Killed"].summary.line


def test_runner_fails_only_the_node_that_dies_in_the_middle_of_a_message(
    lab: Lab, toys: ModuleType
) -> None:
    class Slow(Recorder):
        def progressed(self, node_id: str, text: str) -> None:
            super().progressed(node_id, text[:10])
            time.sleep(1.0)

    results = lab.run([toys.DieTalking().with_id("Talk"), toys.Source().with_id("Other")], Slow())
    assert results["Talk"].summary.line == "the process of the node was killed by SIGKILL"
    assert results["Other"].state == COMPLETE


def test_runner_notices_a_death_while_a_child_of_the_node_lives_on(
    lab: Lab, toys: ModuleType
) -> None:
    recorder = Recorder(patience=PATIENCE_SECONDS)
    results = lab.run([toys.Kill(leave_child=PATIENCE_SECONDS + 4).with_id("Killed")], recorder)
    assert results["Killed"].summary.line == "the process of the node was killed by SIGKILL"


def test_runner_does_not_wait_for_a_thread_that_a_node_leaves_behind(
    lab: Lab, toys: ModuleType
) -> None:
    start = time.monotonic()
    results = lab.run(
        [
            toys.LeaveThread(seconds=PATIENCE_SECONDS).with_id("Done"),
            toys.LeaveThread(seconds=PATIENCE_SECONDS, leave=1).with_id("Left"),
        ]
    )
    assert states(results) == {"Done": COMPLETE, "Left": FAILED}
    assert time.monotonic() - start < PATIENCE_SECONDS


def test_runner_lets_a_node_interrupt_what_it_started(lab: Lab, toys: ModuleType) -> None:
    results = lab.run([toys.InterruptChild(seconds=PATIENCE_SECONDS).with_id("Node")])
    assert results["Node"].summary.line == str(-signal.SIGINT)


def test_runner_reports_errors_with_their_class_and_message(lab: Lab, toys: ModuleType) -> None:
    blocked = "passengers has drifted\n  distance 0.41\n  allowed 0.3"
    # As Beam tells of jobs on Flink.
    job = "Pipeline BeamApp-me_5be4c44b failed in state FAILED: "
    worker = "a.B: Traceback (most recent call last):\n  File\nstorage.errors.DataError: no rows\n"
    results = lab.run(
        [
            toys.Fail(kind="UserError", message="mend this").with_id("User"),
            toys.Fail(kind="DataError", message="row group 3").with_id("Data"),
            toys.Fail(kind="BlockingAnomalies", message=blocked).with_id("Blocked"),
            toys.Fail(kind="ValueError", message="no [bold] idea").with_id("Other"),
            toys.Fail(kind="ValueError", message="").with_id("Silent"),
            toys.Fail(kind="RuntimeError", message=f"{job}a.Lost: gone\n\tat a.B").with_id("Job"),
            toys.Fail(kind="RuntimeError", message=f"{job}{worker}").with_id("Worker"),
        ]
    )
    assert results == {
        "User": NodeResult(FAILED, Summary("mend this"), "UserError", lasting=True),
        "Data": NodeResult(FAILED, Summary("row group 3"), "DataError", lasting=True),
        "Blocked": NodeResult(
            FAILED,
            Summary("passengers has drifted", ("  distance 0.41", "  allowed 0.3")),
            "BlockingAnomalies",
            lasting=True,
        ),
        "Other": NodeResult(FAILED, Summary("ValueError: no [bold] idea"), "ValueError"),
        "Silent": NodeResult(FAILED, Summary("ValueError: ValueError"), "ValueError"),
        "Job": NodeResult(FAILED, Summary("a.Lost: gone"), "RuntimeError"),
        "Worker": NodeResult(FAILED, Summary("no rows"), "DataError", lasting=True),
    }


def test_runner_completes_a_node_without_summary_with_a_warning(lab: Lab, toys: ModuleType) -> None:
    results = lab.run([toys.Source(text="beyond words").with_id("Top")])
    warning = Summary("warning: no summary: ValueError: no words for it")
    assert results == {"Top": NodeResult(COMPLETE, warning)}
    assert lab.recorded_states() == {"Top": "COMPLETE"}


def test_runner_reports_a_full_disk_that_cannot_be_logged(lab: Lab, toys: ModuleType) -> None:
    logs = lab.output.logs("run-1")
    logs.mkdir(parents=True)
    (logs / "Top.log").symlink_to("/dev/full")
    results = lab.run([toys.Source().with_id("Top")])
    assert results["Top"].state == FAILED
    assert "No space left on device" in results["Top"].summary.line


def test_runner_names_a_log_that_cannot_be_written(lab: Lab, toys: ModuleType) -> None:
    results = lab.run([toys.Source().with_id("Top")], logs=False)
    assert results["Top"].state == FAILED
    assert str(lab.log("Top")) in results["Top"].summary.line


def test_runner_fails_a_node_with_missing_inputs(lab: Lab, toys: ModuleType) -> None:
    results = lab.run(diamond(toys), only=("Left",))
    assert results["Left"].state == FAILED
    assert "inputs" in results["Left"].summary.line
    assert lab.recorded_states() == {"Left": "FAILED"}


def test_runner_reports_progress_in_order_and_whole(lab: Lab, toys: ModuleType) -> None:
    recorder = Recorder()
    length = 300_000  # Several times what a pipe holds.
    lab.run(
        [
            toys.Report(lines=3, length=10).with_id("Short"),
            toys.Report(lines=20, length=length).with_id("Long"),
        ],
        recorder,
    )
    assert [text for node_id, text in recorder.progress if node_id == "Short"] == [
        "0 ........",
        "1 ........",
        "2 ........",
    ]
    assert [text for node_id, text in recorder.progress if node_id == "Long"] == [
        f"{number} ".ljust(length, ".") for number in range(20)
    ]


def test_runner_writes_all_output_of_a_node_to_its_log(
    lab: Lab, toys: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    lab.run([toys.Print().with_id("Print"), toys.Fail().with_id("Fail")])
    assert capfd.readouterr() == ("", "")
    printed = lab.log("Print").read_text()
    for source in ("python", "child"):
        for stream in ("stdout", "stderr"):
            assert f"\n{source} {stream}\n" in printed
    for descriptor in (1, 2):
        assert f"\ndescriptor {descriptor}\n" in printed
    assert "Going to run a new execution" in printed  # TFX's own log.
    failed = lab.log("Fail").read_text()
    assert re.search(r"Traceback.*\nValueError: no\n", failed, re.DOTALL)
    assert "python stdout" not in failed


def test_runner_keeps_the_log_of_a_killed_node(lab: Lab, toys: ModuleType) -> None:
    lab.run([toys.Kill().with_id("Killed")])
    assert "last words" in lab.log("Killed").read_text()


def test_runner_stops_all_processes_at_ctrl_c_and_resumes(
    lab: Lab, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.local import tfx_internals

    monkeypatch.setattr(local_dag_runner, "STOP_SECONDS", 2.0)
    go, polite, stubborn = (tmp_path / name for name in ("go", "polite", "stubborn"))

    def components() -> Components:
        quick = toys.Source(text="quick").with_id("Quick")
        one = toys.Wait(file=str(go), touch=str(polite)).with_id("Polite")
        two = toys.Wait(file=str(go), touch=str(stubborn), stubborn=1).with_id("Stubborn")
        end = toys.Join(left=quick.outputs["note"], right=one.outputs["note"]).with_id("End")
        return [quick, one, two, end]

    def all_wait(observer: InterruptedWhen) -> bool:
        done = (COMPLETE, "Quick") in observer.events and len(node_processes()) == 2
        return done and polite.exists() and stubborn.exists()

    observer = InterruptedWhen(all_wait)
    with pytest.raises(KeyboardInterrupt):
        lab.run(components(), observer, workers=3)
    assert len(observer.pids) == 2
    assert not any(map(is_alive, observer.pids))
    assert multiprocessing.active_children() == []
    assert lab.recorded_states() == {
        "Quick": "COMPLETE",
        "Polite": "FAILED",  # It was told, and TFX had the time to clean up.
        "Stubborn": "RUNNING",
    }
    assert tfx_internals.cancel_unfinished(lab.store()) == 1
    assert lab.recorded_states()["Stubborn"] == "CANCELED"

    go.touch()
    results = lab.run(components(), workers=3)
    assert states(results) == {
        "Quick": CACHED,
        "Polite": COMPLETE,
        "Stubborn": COMPLETE,
        "End": COMPLETE,
    }


def test_runner_kills_all_processes_at_a_second_ctrl_c(
    lab: Lab, toys: ModuleType, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    never = str(tmp_path / "never")
    waiting = toys.Wait(file=never, touch=str(touched), stubborn=1).with_id("Wait")
    second = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))

    def it_waits(observer: InterruptedWhen) -> bool:
        if touched.exists():
            second.start()
        return touched.exists()

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        lab.run([waiting], InterruptedWhen(it_waits))
    second.cancel()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - start < PATIENCE_SECONDS


@pytest.mark.parametrize("method", ["started", "progressed", "finished"])
def test_runner_leaves_no_process_when_an_observer_raises(
    lab: Lab, toys: ModuleType, tmp_path: Path, method: str
) -> None:
    class Faulty(Recorder):
        pass

    def fail(self: Recorder, *args: object) -> None:
        raise RuntimeError("the screen is broken")

    setattr(Faulty, method, fail)
    waiting = toys.Wait(file=str(tmp_path / "never")).with_id("Wait")
    with pytest.raises(RuntimeError, match="the screen is broken"):
        lab.run([waiting, toys.Report().with_id("Report")], Faulty())
    assert multiprocessing.active_children() == []


def test_runner_leaves_no_descriptors_open(lab: Lab, toys: ModuleType) -> None:
    counts = []
    for _ in range(2):
        lab.run([toys.Fail(), toys.Kill(), toys.Source()])
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("stubborn", [0, 1], ids=["polite", "stubborn"])
def test_runner_stops_a_node_over_its_time_limit_with_all_it_started(
    lab: Lab, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: int
) -> None:
    monkeypatch.setattr(local_dag_runner, "STOP_SECONDS", 0.5)
    children = tmp_path / "children"
    wait = toys.Wait(file=str(tmp_path / "never"), stubborn=stubborn, children=str(children))
    after = toys.Join(left=wait.outputs["note"], right=wait.outputs["note"]).with_id("After")
    other = toys.Source(text="other").with_id("Other")
    results = lab.run([wait.with_id("Slow"), after, other], time_limits={"Slow": 1.0})
    assert states(results) == {"Slow": FAILED, "After": SKIPPED, "Other": COMPLETE}
    line = "it was stopped because it took longer than 1 s"
    assert results["Slow"].summary.line == line
    if children.exists():  # On a busy machine it may be stopped before.
        pids = [int(pid) for pid in children.read_text().split()]
        assert wait_until(lambda: not any(map(is_alive, pids)))


def test_runner_accepts_the_result_of_a_node_within_its_time_limit(
    lab: Lab, toys: ModuleType
) -> None:
    results = lab.run([toys.Source(text="quick").with_id("Top")], time_limits={"Top": 3600.0})
    assert states(results) == {"Top": COMPLETE}


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_runner_lets_nodes_reach_this_machine_without_a_proxy(
    lab: Lab, toys: ModuleType, name: str
) -> None:
    results = lab.run([toys.Environment(name=name).with_id("Node")])
    assert {"localhost", "127.0.0.1", "::1"} <= set(results["Node"].summary.line.split(","))


def test_runner_keeps_its_own_arguments_from_beam_nodes(
    lab: Lab, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TFX has absl parse the arguments of the process for flags, and absl has a `-v` too.
    monkeypatch.setattr(sys, "argv", [sys.argv[0], "-v", "-p"])
    top = toys.Source(text="quick").with_id("Top")
    shout = toys.Shout(note=top.outputs["note"]).with_beam_pipeline_args(
        ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]
    )
    results = lab.run([top, shout])
    assert states(results) == {"Top": COMPLETE, "Shout": COMPLETE}


@pytest.mark.parametrize("folder", ["long/" * 40, "missing", "file"])
def test_runner_starts_processes_wherever_tmpdir_points(tmp_path: Path, folder: str) -> None:
    temporary = tmp_path / folder
    if folder == "file":
        temporary.touch()
    elif folder != "missing":
        temporary.mkdir(parents=True)
    run = SleepyRun(tmp_path)
    run.start(TMPDIR=str(temporary))
    assert run.process is not None
    try:
        assert wait_until(lambda: bool(run.pid_in("node.pid")))
    finally:
        run.process.terminate()
        assert wait_until(run.is_gone)


@dataclass
class SleepyRun:
    """A run in a process and folder of its own, of one node that sleeps."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, *preload: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sleepy_run.py")), *preload],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                **environment,
            },
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def pid_in(self, name: str) -> int | None:
        """The process id that a file holds, once it is there."""
        file = self.folder / name
        return int(file.read_text() or "0") if file.exists() else None

    def is_gone(self) -> bool:
        """Whether neither the run, nor its fork server, nor its node process is left."""
        assert self.process is not None
        return self.process.poll() is not None and not any(
            is_alive(pid) for name in ("node.pid", "server.pid") if (pid := self.pid_in(name))
        )


@pytest.fixture
def sleepy_run(tmp_path: Path) -> Iterator[SleepyRun]:
    run = SleepyRun(tmp_path)
    yield run
    assert run.process is not None
    run.process.kill()
    run.process.wait()
    for name in ("node.pid", "server.pid"):
        if (pid := run.pid_in(name)) and is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runner_processes_end_with_the_runner(
    sleepy_run: SleepyRun, number: signal.Signals
) -> None:
    sleepy_run.start()
    assert wait_until(lambda: bool(sleepy_run.pid_in("node.pid")))
    assert sleepy_run.process is not None
    sleepy_run.process.send_signal(number)
    assert wait_until(sleepy_run.is_gone)


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_runner_leaves_nothing_at_ctrl_c_during_imports(
    sleepy_run: SleepyRun, whole_group: bool
) -> None:
    (sleepy_run.folder / "slow_import.py").write_text(
        "import os, time; open('server.pid', 'w').write(str(os.getpid())); time.sleep(2)"
    )
    sleepy_run.start("slow_import")
    assert wait_until(lambda: bool(sleepy_run.pid_in("server.pid")))
    time.sleep(0.5)  # The runner waits for its first node process now.
    assert sleepy_run.process is not None
    send = os.killpg if whole_group else os.kill
    send(sleepy_run.process.pid, signal.SIGINT)
    assert wait_until(lambda: sleepy_run.process.poll() is not None)  # type: ignore[union-attr]
    time.sleep(0.0 if whole_group else 2.5)  # By then, the fork server would have forked it.
    assert wait_until(sleepy_run.is_gone)
