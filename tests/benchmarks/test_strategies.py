"""Tests of the comparison of strategies, on a small finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks import common
from benchmarks.evaluated_run import EvaluatedRun, Gain, find_runs, select_segment
from benchmarks.strategies import (
    compare_versions,
    find_members,
    large_values,
    out_of_domain,
    report_fallback,
    summarize,
)
from ml.statistics import categories
from storage.tfrecords import count_records
from tests.conftest import PushedRun

_COLUMN = "origin"


@pytest.fixture(scope="module")
def run(pushed: PushedRun) -> EvaluatedRun:
    (found,) = find_runs(pushed.cli.output)
    return found


def _gains(values: Sequence[float]) -> list[Gain]:
    return [Gain(value, np.zeros(2)) for value in values]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data(), st.integers(1, 4))
def test_find_members_takes_the_newest_versions_made_without_the_month(
    pushed: list[bool], data: st.DataObject, size: int
) -> None:
    at = data.draw(st.integers(0, len(pushed) - 1))
    served = find_members(pushed, at, 1, size)
    assert all(pushed[made] and made < at for made in served)
    assert served in ([], [made for made in range(at) if pushed[made]][::-1][:size])
    assert (len(served) == size) == (sum(pushed[:at]) >= size)
    evaluated = find_members(pushed, at, 0, size)
    assert evaluated in ([], [at, *find_members(pushed, at, 1, size - 1)])
    assert (len(evaluated) == size) == (sum(pushed[:at]) >= size - 1)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.004, 0.005, 0.006), "better"),
        ((-0.004, -0.005, -0.006), "worse"),
        ((0.01, -0.001, 0.0), "not significant"),
        ((0.0, 0.0, 0.0), "not significant"),
    ],
)
def test_summarize_needs_months_that_agree(values: Sequence[float], verdict: str) -> None:
    assert summarize(_gains(values)).endswith(f": {verdict}")


def test_summarize_gives_no_verdict_of_one_month() -> None:
    assert summarize(_gains([0.5])) == "+0.5000"


def test_out_of_domain_finds_unseen_categories_and_numbers_outside_the_range() -> None:
    train = pd.DataFrame({"color": ["red", "blue"], "size": [1.0, 2.0], "empty": [None, None]})
    statistics = tfdv.generate_statistics_from_dataframe(train)
    rows = pd.DataFrame(
        {
            "color": ["red", "green", None, "blue", "red", "red"],
            "size": [1.0, 1.5, 1.5, 2.1, 0.9, np.nan],
        }
    )
    assert out_of_domain(rows, statistics).tolist() == [False, True, False, True, True, False]
    rows["empty"] = [None, None, None, None, None, "x"]
    assert out_of_domain(rows, statistics).tolist() == [False, True, False, True, True, True]


def test_evaluated_run_scores_its_model_as_its_evaluator_did(
    run: EvaluatedRun, pushed: PushedRun
) -> None:
    version = pushed.version
    metrics = json.loads(
        (version.parent / ".flightdeck" / version.name / "metrics.json").read_text()
    )
    scores = run.score(run.predict(run.records))
    assert scores[0] == pytest.approx(metrics["Overall"]["auc"], abs=1e-6)
    assert scores[1:].std() > 0


def test_evaluated_run_gains_nothing_by_its_own_version(run: EvaluatedRun) -> None:
    runs, calls = [run, run, run], []

    def predict(made: int, at: int) -> np.ndarray:
        calls.append(made)
        return run.predict(run.records) if made else np.full((len(run.records), 1), 0.5)

    found = compare_versions(runs, [True, True, True], predict)
    assert found["when pushed", 2, 2].value == pytest.approx(0, abs=1e-4)
    assert found["when pushed", 2, 2].margin < 0.01
    assert ("when served", 3, 2) not in found
    assert set(calls) == {0, 1, 2}


def test_select_segment_keeps_the_rows_of_one_value(
    run: EvaluatedRun, pushed: PushedRun, tmp_path: Path
) -> None:
    known = categories(run.statistics, _COLUMN)
    graph = tft.TFTransformOutput(str(pushed.artifact("Transform", "transform_graph")))
    files = pushed.artifact("Transform", "transformed_examples") / "Split-train"
    paths = [str(path) for path in sorted(files.iterdir())]
    for value, rows in known.items():
        example = run.records[(run.features[_COLUMN] == value).to_numpy()][0]
        selected = select_segment(paths, graph, _COLUMN, example, f"{tmp_path}/{value}")
        assert count_records([selected]) == rows


def test_evaluated_run_gains_what_a_segment_of_its_own_gains(run: EvaluatedRun) -> None:
    (value, *_) = large_values(run.statistics, _COLUMN)
    rows = (run.features[_COLUMN] == value).to_numpy()
    one = run.predict(run.records)
    routed = one.copy()
    routed[rows] = run.train(7, {"": run.records[rows]}, (_COLUMN, value))[""]
    scores = [roc_auc_score(run.labels[rows], answer[rows, 0]) for answer in (routed, one)]
    assert run.gain(routed, one, rows).value == pytest.approx(scores[0] - scores[1], abs=1e-3)
    assert (routed[rows] != one[rows]).mean() > 0.9


def test_report_fallback_writes_its_table(
    run: EvaluatedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(common.PAGE_VARIABLE, str(tmp_path / "results.md"))
    monkeypatch.setattr(common, "RESULTS", common.PROJECT / "output" / "benchmarks" / "test")
    command = click.Command("strategies", callback=lambda: report_fallback([run, run]))
    command(args=[], standalone_mode=False)
    page = (tmp_path / "results.md").read_text()
    outside = out_of_domain(run.features, run.statistics).sum()
    assert 0 < outside < len(run.records)
    # The version before is the same one: nothing is gained.
    assert f"| 201303 when pushed | {outside:,} (" in page
    assert "| +0.0000 ±0.0000 |\n" in page


def test_find_runs_refuses_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="has runs of 0 models; one is needed"):
        find_runs(tmp_path)
