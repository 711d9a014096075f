"""The page of a run: whole, escaped, and made of whatever is left of the run."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes

from report.index import IndexedRun, Model, Version, make_index
from report.page import make_page
from report.plots import draw, label
from report.reading import Absent, read_json
from report.run import Artifact, Node, Run
from tests.report.runs import HOSTILE, RUN_ID, TASKS, make_failed, make_run, make_statistics

SECTIONS = (
    *("decision", "data", "tuning", "training", "compression", "evaluation", "fairness"),
    *("explanations", "serving", "lineage", "configuration"),
)
# All that a page is made of.
ELEMENTS = frozenset(
    re.findall(
        r"\w+",
        """html head meta title link style body a div header p h1 h2 h3 span nav ul li main section
        table thead tbody tr th td caption code br figure figcaption img details summary strong
        footer svg g path defs clippath rect use text""",
    )
)
ATTRIBUTES = frozenset(
    re.findall(
        r"[\w-]+",
        """lang charset name content http-equiv rel href class id scope style src alt tabindex role
        aria-label aria-labelledby open viewbox xmlns d x y width height transform clip-path""",
    )
)


class Document(HTMLParser):
    """What a browser would take a page for."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found, name
    return found[0]


@pytest.mark.parametrize("kind", TASKS)
def test_page_shows_every_section_of_a_run(tmp_path: Path, kind: str) -> None:
    page = make_page(make_run(tmp_path, kind), "../index.html").html
    for name in SECTIONS:
        assert "cannot be shown" not in section(page, name), section(page, name)[-400:]
        assert "Not made" not in section(page, name), name
    assert section(page, "evaluation").count("<svg") == {"binary": 4, "multiclass": 2}.get(kind, 3)
    assert ("Confusion matrix" in page) == (kind == "multiclass")
    assert len(page) < 2_000_000


@pytest.mark.parametrize("kind", TASKS)
def test_page_has_no_markup_from_data_and_refers_to_nothing_outside(
    tmp_path: Path, kind: str
) -> None:
    document = Document(make_page(make_run(tmp_path, kind)).html)
    assert {tag for tag, _ in document.elements} <= ELEMENTS
    names = {name for _, attributes in document.elements for name in attributes}
    assert names <= ATTRIBUTES
    for tag, attributes in document.elements:
        for name in ("href", "src"):
            if address := attributes.get(name):
                assert address.startswith(("#", "data:")), (tag, address)
    assert len(document.ids()) == len(set(document.ids()))
    assert document.text.count("<script>alert(1)</script>") > 10
    assert "\u202e" not in document.text
    assert "\x00" not in document.text


def test_page_shows_the_search_for_settings_where_the_run_has_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    tuning = section(make_page(run).html, "tuning")
    assert "Trial 3 was taken: AUC 0.7000 on eval; the configured settings reach 0.6000" in tuning
    assert "each the mean over seeds 7, 8" in tuning
    assert "2 complete, 1 pruned, 1 failed" in tuning
    assert re.findall(r'<th scope="row">(\d)', tuning) == ["3", "0", "1", "2"]
    assert tuning.count("<svg") == 1
    assert 'class="strong"><th scope="row">3<' in tuning
    without = tuple(node for node in run.nodes if node.name != "Tuner")
    page = make_page(dataclasses.replace(run, nodes=without)).html
    assert "tuning" not in page


def test_page_of_a_failed_run_shows_the_failing_check_first(tmp_path: Path) -> None:
    lines = ("1 blocking anomaly in the data:", f"  test: distance: DRIFT: {HOSTILE}")
    run = make_failed(make_run(tmp_path), "DataGate", lines, "stopped by the gate")
    page = make_page(run).html
    decision = section(page, "decision")
    assert "No version was pushed" in decision
    first = decision.index("<tbody>")
    assert decision.index("stopped the run", first) < decision.index("not reached", first)
    assert decision.index("blocking anomaly") < first
    assert 'bad-text">distance' in section(page, "data")
    assert "Not made: the run has no evaluation of Evaluator." in section(page, "evaluation")


def test_page_of_a_model_that_is_not_blessed_shows_that_check_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    nodes = [
        dataclasses.replace(
            node,
            line="AUC 0.6",
            details=("Overall: AUC 0.6 is too low",),
            outputs={**node.outputs, "blessing": Artifact("x", {"blessed": 0})},
        )
        if node.name == "ServingValidator"
        else node
        for node in run.nodes
    ]
    run = dataclasses.replace(run, outcome="not blessed", version=None, nodes=tuple(nodes))
    decision = section(make_page(run).html, "decision")
    verdicts = re.findall(r'<th scope="row" class="name">(\w+)<', decision)
    assert verdicts[0] == "ServingValidator"
    assert "Overall: AUC 0.6 is too low" in decision


def test_page_of_a_run_whose_artifacts_were_cleaned_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    shutil.rmtree(tmp_path / RUN_ID)
    page = make_page(run).html
    for name in ("training", "compression", "evaluation", "serving"):
        assert "The files were deleted since:" in section(page, name)
    assert section(page, "lineage").count(">deleted<") > 10
    assert "161" in page or "2 min 41 s" in page


def test_page_of_a_run_that_left_nothing_but_its_record_is_made() -> None:
    run = Run("20260101", outcome="failed", meaning="failed", reasons=(HOSTILE,))
    page = make_page(run)
    assert "It is not known" in section(page.html, "configuration")
    assert page.facts["headline"] is None
    json.dumps(page.facts, allow_nan=False)


FILES = (
    *("training.json", "tuning.json", "report.json", "summary.json", "curves.json"),
    *("fairness.json", "explanations.json", "baselines.json", "FeatureStats.pb", "SchemaDiff.pb"),
)


@given(
    name=st.sampled_from(FILES),
    content=st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"{}", b"[]", b"null", b'{"curves": 1}', b"[" * 5000, b'{"task": {}}']),
        st.integers(0, 300),
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
def test_page_is_made_of_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: Any
) -> None:
    """Of any bytes, and of files that were cut."""
    folder = tmp_path_factory.mktemp("damaged")
    run = make_run(folder)
    for path in folder.rglob(name):
        whole = path.read_bytes()
        path.write_bytes(content if isinstance(content, bytes) else whole[: -1 - content])
    page = make_page(run).html
    assert {tag for tag, _ in Document(page).elements} <= ELEMENTS
    for each in SECTIONS:
        section(page, each)


def test_page_of_2000_features_is_small_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    names = tuple(f"feature_{number}" for number in range(2000))
    for path in tmp_path.rglob("FeatureStats.pb"):
        path.write_bytes(make_statistics(names))
    began = time.process_time()
    page = make_page(run).html
    assert time.process_time() - began < 20
    assert "1,851 more features are left out" in page
    assert len(page) < 2_000_000


def test_page_of_equal_runs_is_equal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert make_page(run).html == make_page(run).html


def test_read_json_refuses_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(Absent, match="is not a file"):
        read_json(Artifact(str(tmp_path)), "report.json")


def test_plot_texts_stay_texts() -> None:
    def function(axes: Axes) -> None:
        axes.set_xlabel(label(HOSTILE, 200))

    svg = draw(HOSTILE, function)
    document = Document(svg)
    assert {tag for tag, _ in document.elements} <= ELEMENTS
    assert "$\\frac{" in document.text
    assert document.elements[0][1]["aria-label"].startswith("<script>")  # type: ignore[union-attr]


def test_index_links_pages_and_shows_trends_and_versions(tmp_path: Path) -> None:
    facts = make_page(make_run(tmp_path)).facts
    runs = [
        IndexedRun(
            run_id=f"2026030{day}",
            outcome="pushed" if day % 2 else "not blessed",
            started="2026-03-02T12:00:00+00:00",
            version=day if day % 2 else None,
            reasons=(HOSTILE,),
            months={"train": (201301,), "test": (201300 + day,)},
            page=f"models/<{day}>/report.html",
            facts=facts,
        )
        for day in range(5, 0, -1)
    ]
    runs.append(IndexedRun("2026", "unknown", facts={"headline": HOSTILE, "bytes": HOSTILE}))
    provenance = {"headline": {"title": "AUC", "text": HOSTILE}, "spans": {"train": [1, 2]}}
    versions = (Version(HOSTILE, 5, "live", provenance), Version("toy", 3, "older"))
    page = make_index([Model("toy", tuple(runs), versions), Model(HOSTILE)])
    document = Document(page)
    assert {tag for tag, _ in document.elements} <= ELEMENTS
    links = [a["href"] for tag, a in document.elements if tag == "a" and a.get("href")]
    assert "models/%3C5%3E/report.html" in links
    assert page.count("<svg") == 3
    assert "Version 5 of &lt;script&gt;" in page
    assert len(document.ids()) == len(set(document.ids()))


def test_index_of_nothing_says_so() -> None:
    assert "No run has left a record" in make_index([])
    assert make_index([Model("toy", (IndexedRun("1", "failed"),))]).count("<svg") == 0


def test_node_knows_whether_it_blessed() -> None:
    assert Node("Evaluator").blessed is None
    assert Node("Evaluator", outputs={"blessing": Artifact("x", {"blessed": 1})}).blessed is True
