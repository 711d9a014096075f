"""Tests of `benchmarks.steady`: what it plans, keeps and says of the targets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest

from benchmarks import common, steady
from benchmarks.finished_run import FinishedRun
from pipeline.config import load_config


def test_plan_takes_all_months_with_all_seeds_unless_some_are_named() -> None:
    assert steady.plan([], 5, [201306, 201312]) == {201306: 5, 201312: 5}
    assert steady.plan(["201312", "201306:2"], 5, [201306, 201312]) == {201312: 5, 201306: 2}
    assert steady.plan([], 0, [201306, 201312]) == {}


@pytest.mark.parametrize("month", ["201301", "2013", "201312:", "201312:x", "201312:-1", ""])
def test_plan_refuses_a_month_that_no_run_is_of_and_a_number_that_is_none(month: str) -> None:
    with pytest.raises(click.BadParameter):
        steady.plan([month], 5, [201312])


def test_measurement_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "RESULTS", tmp_path)
    config = load_config(settings=["model=flights"])
    run = cast(FinishedRun, SimpleNamespace(config=config, folder=Path("run-1")))
    calls: list[int] = []

    def measure() -> dict[str, float]:
        calls.append(len(calls))
        return {"auc": 0.7 + len(calls)}

    first = steady.once("benchmarks.compression", run, "201312-1", measure)
    assert steady.once("benchmarks.compression", run, "201312-1", measure) == first
    assert calls == [0]
    another = cast(FinishedRun, SimpleNamespace(config=config, folder=Path("run-2")))
    steady.once("benchmarks.compression", another, "201312-1", measure)
    assert calls == [0, 1]


def compressed(seed: int, auc: float, loss: float) -> dict[str, Any]:
    """What `compress` finds of a seed."""
    found = {"seed": seed, "auc": auc, "compressed": auc - loss, "loss": loss}
    return found | {"worst_slice": f"carrier {seed}", "loss_of_worst_slice": 3 * loss}


def test_tables_show_worst_seed_and_which_targets_are_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "results.md"
    monkeypatch.setenv(common.PAGE_VARIABLE, str(page))
    monkeypatch.setattr(common, "RESULTS", common.PROJECT / "output" / "benchmarks" / "test")
    measured = {
        month: steady.Month(
            [compressed(1, auc, 0.0), compressed(2, auc + 0.004, 0.003)], auc - 0.01
        )
        for month, auc in ((201308, 0.71), (201311, 0.69), (201312, 0.7))
    }
    tables = click.Command("tables", callback=lambda: steady.report_seeds(measured))
    tables(standalone_mode=False, args=[])
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines()]
    cells = {row[0]: row[1:] for row in rows if len(row) > 1}
    december = ["2", "0.7020, 0.0028, 0.7000", "0.7005, 0.0007, 0.7000", "0.0015, 0.0030"]
    assert cells["201312"] == [*december, "0.0090 carrier 2", "0.6900"]
    assert cells["mean of 201308, 201311, 201312"][1] == "0.7020, 0.0028, 0.7000"
    assert cells["largest loss by compression"] == ["0.0030", "0.002", "no"]
    assert cells["the same, of a carrier"] == ["0.0090", "0.008", "no"]
    assert cells["standard deviation of AUC on 201312, float"] == ["0.0028", "0.001", "no"]
    assert cells["standard deviation of AUC on 201312, compressed"] == ["0.0007", "0.001", "yes"]
    assert cells["mean AUC on 201308, 201311, 201312, float"] == ["0.7020", "0.701", "yes"]
    assert cells["mean AUC on 201308, 201311, 201312, compressed"] == ["0.7005", "0.701", "no"]
