"""A small world for tests of the schedule: runs that do as a plan says, and the plan.

Run as a program, it is either such a run, or a schedule in a process of its own that starts some.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from orchestration.local.output_directory import (  # noqa: E402
    BusyError,
    OutputDirectory,
    write_whole,
)

KEY = "aaaa"


@dataclass(frozen=True)
class World:
    """Data, what is served, and what the next runs will do, in files of an output directory."""

    directory: OutputDirectory

    @property
    def root(self) -> Path:
        return self.directory.root

    @property
    def span(self) -> Path:
        output = self.directory.shared or self.root
        return output.parent / "spans" / "span-201303" / "part.parquet"

    def of(self, model: str) -> World:
        """The world of one of several models in the output directory."""
        return World(OutputDirectory(self.root / "models" / model, self.root, model))

    def plan(self, *steps: dict[str, Any]) -> None:
        """Says what the next runs do; those after them push."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_whole(self.root / "plan.json", json.dumps(steps))

    def serve(self, version: int, key: str, months: tuple[int, ...] = (201302, 201303)) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        served = {"version": version, "key": key, "months": months}
        write_whole(self.root / "served.json", json.dumps(served))

    def served(self) -> dict[str, Any]:
        path = self.root / "served.json"
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return content

    def ran(self) -> list[list[str]]:
        """Arguments of the runs that were started, in order."""
        path = self.root / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split() for line in lines]

    def command(self, run_id: str, afresh: bool) -> list[str]:
        options = ["--no-cache"] if afresh else []
        self.root.mkdir(parents=True, exist_ok=True)
        return [sys.executable, __file__, "run", str(self.root), run_id, *options]


def run(world: World, run_id: str, *options: str) -> int:
    """Does the next step of the plan."""
    try:
        with world.directory.locked():
            with (world.root / "ran").open("a") as file:
                file.write(" ".join([run_id, *options]) + "\n")
            plan = world.root / "plan.json"
            steps = json.loads(plan.read_text()) if plan.exists() else []
            step = steps.pop(0) if steps else {}
            if plan.exists():
                write_whole(plan, json.dumps(steps))
            return _do(world, run_id, step)
    except BusyError:
        return 75


def _do(world: World, run_id: str, step: dict[str, Any]) -> int:
    status = step.get("status", 0)
    outcome = {0: "pushed", 1: "failed", 2: "", 3: "stopped by the gate", 4: "not blessed"}[status]
    facts = {"run_id": run_id, "started": "2026-01-01T00:00:00+00:00"}

    def record(**more: Any) -> None:
        if step.get("record", True):
            write_whole(world.directory.runs / f"{run_id}.json", json.dumps({**facts, **more}))

    def stop(*_: object) -> NoReturn:
        record(outcome="interrupted")
        os._exit(130)

    signal.signal(signal.SIGTERM, stop)
    record(outcome="running")
    print(step.get("say", ""), flush=True)
    time.sleep(step.get("seconds", 0.0))
    while "until" in step and not (world.root / step["until"]).exists():
        time.sleep(0.02)
    if "signal" in step:
        os.kill(os.getpid(), step["signal"])
    if outcome == "pushed":
        version = world.served().get("version", 0) + 1
        world.serve(version, key=KEY)
        record(outcome=outcome, version=version)
    else:
        lasting = step.get("lasting", False)
        record(outcome=outcome, reasons=step.get("reasons", []), lasting=lasting)
    return int(status)


def look(world: World, key: str = KEY) -> Any:
    """The situation: real files, and what is served."""
    from orchestration.local.situation import Situation

    served = world.served()
    situation = Situation(
        model_name="toy",
        run_key=key,
        data="data",
        configuration="configuration",
        data_uri=str(world.span.parents[1]),
        files=(str(world.span),),
        months={"train": (201302,), "test": (201303,)},
    )
    if not served:
        return situation
    *train, test = served["months"]
    return replace(
        situation,
        served=served["version"],
        served_key=served["key"],
        served_months={"train": tuple(train), "test": (test,)},
    )


def main() -> None:
    kind, root, *arguments = sys.argv[1:]
    world = World(OutputDirectory(Path(root)))
    if kind == "run":
        sys.exit(run(world, *arguments))
    from orchestration.schedule.clock import SystemClock
    from orchestration.schedule.decision import Backoff
    from orchestration.schedule.hooks import Hooks
    from orchestration.schedule.schedule import Schedule

    append = f"""sh -c 'cat >> "{root}/told"'"""
    clock = SystemClock()

    def make(world: World, **options: Any) -> Schedule:
        name = f"{world.directory.model}: " if world.directory.model else ""
        return Schedule(
            directory=world.directory,
            look=lambda: look(world),
            command=world.command,
            say=lambda text: print(name + text, flush=True),
            clock=clock,
            backoff=Backoff(retries=9, seconds=0.01),
            settle_seconds=0,
            hooks=Hooks(append),
            **options,
        )

    if kind == "fire several":
        from orchestration.schedule import several
        from orchestration.schedule.turn import Turn

        turn = Turn()
        schedules = [make(world.of(model), turn=turn) for model in arguments]
        sys.exit(several.fire(schedules).exit_status)
    schedule = make(world)
    if kind == "fire":
        sys.exit(schedule.fire().exit_status)
    from orchestration.schedule.cron import Cron

    schedule.keep_firing(Cron(arguments[0], "UTC"))


if __name__ == "__main__":
    main()
