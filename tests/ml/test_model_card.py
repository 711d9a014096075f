"""The model card: what it says, that Hugging Face's tools read it, that no name becomes markup."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ml.effort import Effort, Stopwatch, energy_kwh, read_effort
from ml.model_card.card import make_card, make_metadata
from ml.model_card.markdown import escape, render, team_markdown
from ml.model_card.team_text import read_team_text
from ml.tasks import Task

TASKS = {
    "binary": Task("binary", "label", ("0", "1"), ("no", "yes")),
    "multiclass": Task("multiclass", "label", ("a", "b", "c")),
    "regression": Task("regression", "price"),
}
TEAM = """---
license: apache-2.0
data_license: cc0-1.0
---
# Model card: taxi

**What it predicts.** Tips.

**Intended use.** An example, see [the docs](../docs/a.md) and [the site](https://example.com).

**Limits.**
- One city.
- One year.

**Licence.** Data: CC0.
"""
HOSTILE = (
    "<script>alert(1)</script>",
    "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "a|b\n---\n# heading\n",
    "`code` **bold** _em_ ~~s~~ $x$",
    "</td></tr></table>",
    "---\nlicense: mit\n---",
    "&lt;b&gt; &#60;",
    "\x1b[31mred\x00",
    "{{ config }} {% raw %}",
    "- item\n1. item",
    "https://evil.example www.evil.example",
    "a: b\n- c",
    "\\",
    "'\"",
    "'''",
    " ",
)
markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# What a card consists of; its template has no link, picture, HTML or emphasis.
PLAIN = {"text", "softbreak", "code_inline", "strong_open", "strong_close"}


def card_of(task: Task = TASKS["binary"], name: str = "taxi", **changes: Any) -> dict[str, Any]:
    """A card in which a name stands wherever a name from data may stand."""
    headline = task.headline.name
    fairness = {
        "columns": [name],
        "metrics": [
            {
                "slice": {name: name},
                "rows": 120,
                "threshold": 0.5,
                "class": name,
                "false_positive_rate": {"value": 0.25, "low": 0.2, "high": 0.3},
                "false_negative_rate": {
                    **{"value": None, "low": None, "high": None},
                    "unknown": "no row is positive",
                },
                "selection_rate": {"value": 0.5, "low": 0.4, "high": 0.6},
            }
        ],
        "comparisons": [
            {
                "column": name,
                "metric": "selection_rate",
                "threshold": 0.5,
                "difference": {"value": 0.125, "low": 0.1, "high": 0.15},
                "ratio": {"value": None, "low": None, "high": None},
                "slices": [name, name],
            }
        ],
        "worst_slices": [
            {
                "slice": {name: name, "other": name},
                "rows": 120,
                "metric": "selection_rate",
                "threshold": 0.5,
                "value": 0.9,
                "rest": 0.5,
                "p_value_corrected": 0.001,
            }
        ],
        "tests": 24,
        "unknown": [f"{name}: unknown"],
    }
    facts: dict[str, Any] = {
        "record": {
            "model_name": name,
            "version": 7,
            "created": "2026-01-01T00:00:00+00:00",
            "run_key": name,
            "spans": {"train": [201301, 201302], "test": [201303]},
            "rows": {"train": 1000, "eval": 100, "test": 500},
            "data": {"201301": "abc"},
            "split": name,
            "headline": {"title": task.headline.title, "text": "0.7 ±0.01"},
            "libraries": {"tfx": "1.16.0"},
        },
        "task": task,
        "team": read_team_text(TEAM),
        "metrics": {
            "Overall": {headline: 0.7, "example_count": 500.0},
            f"{name}:{name}": {headline: 0.9, "example_count": 200.0},
            "x:bad": {headline: None, "example_count": 100.0},
        },
        "intervals": {"Overall": {headline: (0.65, 0.75)}},
        "not_judged": [f"{name}: undefined"],
        "compression": {
            "mode": "int8",
            "why": name,
            "float": {"bytes": 4000, "metrics": {headline: 0.71}},
            "modes": {"int8": {"bytes": 1000, "sparsity": 0.8, "metrics": {headline: 0.7}}},
        },
        "efforts": [Effort("Trainer", 12.0, 3600.0), Effort("Pruner", 3.0, 0.0)],
        "baselines": {
            "metric": {"title": "AUC"},
            "value": 0.7,
            "rivals": [{"title": name, "value": 0.6, "loss": -0.1, "margin": 0.01}],
        },
        "fairness": fairness,
        "explanations": {
            "method": name,
            "rows": 100,
            "units": name,
            "importance": [{"feature": name, "mean_abs": 0.25, "low": 0.2, "high": 0.3}],
        },
    }
    return make_card(**facts | changes)


def text_of(card: dict[str, Any]) -> str:
    return render(card, make_metadata(card))


def data_of(text: str) -> Any:
    """A card's metadata, as Hugging Face reads it."""
    return ModelCard(text).data


def tokens(text: str) -> list[Token]:
    """All tokens of a card, without its metadata."""
    found = []
    for token in markdown.parse(ModelCard(text).text):
        found += [token, *(token.children or ())]
    return found


@pytest.mark.parametrize("kind", TASKS)
def test_model_card_is_read_by_hugging_face(kind: str) -> None:
    task = TASKS[kind]
    data = data_of(text_of(card_of(task)))
    assert data.license == "apache-2.0"
    assert data.model_name == "taxi"
    (result,) = data.eval_results
    assert (result.metric_value, result.metric_name) == (0.7, task.headline.title)
    assert result.dataset_name == "taxi 201303"
    assert result.dataset_split == "test"
    wanted = "tabular-regression" if kind == "regression" else "tabular-classification"
    assert data.pipeline_tag == wanted == result.task_type


def test_model_card_says_what_was_measured() -> None:
    card = card_of()
    text = text_of(card)
    for expected in (
        "| Overall | 500 | 0.7 (0.65 to 0.75) |",
        "| taxi:taxi | 200 | 0.9 |",
        "| taxi: taxi | 120 | 0.5 | taxi | 0.25 (0.2 to 0.3) | unknown | 0.5 (0.4 to 0.6) |",
        "| taxi: taxi, other: taxi | 120 | selection rate at 0.5 | 0.9 | 0.5 | 0.001 |",
        "| bytes of model.tflite | 4,000 | 1,000 |",
        "| taxi | 0.25 (0.2 to 0.3) |",
        "| train | 201301, 201302 | 1,000 |",
        "Licence of the data: cc0-1.0",
        "The team: An example, see the docs and [the site](https://example.com).",
        "- One city.\n- One year.",
        "| all | 15 | 3,600 |",
        "About 0.012 kWh. This is an estimate",
    ):
        assert expected in text, expected
    assert card["effort"]["energy_kwh_estimate"] == energy_kwh(3600) == pytest.approx(0.012)
    assert [row["slice"] for row in card["metrics"]] == ["Overall", "taxi:taxi", "x:bad"]
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_model_card_says_what_is_not_there() -> None:
    card = card_of(
        team=read_team_text(""),
        baselines=None,
        fairness=None,
        explanations=None,
        efforts=[],
        compression={"mode": "int8"},
    )
    text = text_of(card)
    assert "## Explanations\n\nNot made." in text
    assert "Not made: no columns" in text
    assert "Not described: the model's `card.md` does not say it." in text
    assert "Licence of the data: not stated" in text
    assert "## Time and energy\n\nNot recorded." in text
    assert data_of(text).license is None


def sections(text: str) -> list[str]:
    """The headings of a card, and how many tables, rows and items it has."""
    found = tokens(text)
    counted = ("table_open", "tr_open", "td_open", "bullet_list_open", "list_item_open")
    heads = [found[i + 1].content for i, token in enumerate(found) if token.type == "heading_open"]
    return heads[1:] + [str(sum(token.type == kind for token in found)) for kind in counted]


@pytest.mark.parametrize("name", HOSTILE)
def test_model_card_shows_hostile_names_as_text(name: str) -> None:
    text = text_of(card_of(name=name))
    inline = [token for token in tokens(text) if token.nesting or token.type in PLAIN]
    assert {token.type for token in tokens(text)}.isdisjoint(
        {"html_block", "html_inline", "image", "em_open", "s_open", "code_block", "fence", "hr"}
    )
    links = [token.attrGet("href") for token in inline if token.type == "link_open"]
    assert links == ["https://example.com"]
    assert sections(text) == sections(text_of(card_of(name="taxi")))
    # A person sees the name.
    shown = name if name.isprintable() else ascii(name)[1:-1]
    cells = ["".join(t.content for t in token.children or ()) for token in tokens(text)]
    assert any(shown.strip() in cell for cell in cells)
    data = data_of(text)
    assert data.model_name == shown
    assert data.license == "apache-2.0"


@given(st.text(max_size=30))
def test_model_card_escapes_any_text(name: str) -> None:
    parsed = markdown.parse(f"x {escape(name)}.")
    (inline,) = [token for token in parsed if token.type == "inline"]
    assert len(parsed) == 3
    shown = name if name.isprintable() else ascii(name)[1:-1]
    assert {token.type for token in inline.children or ()} <= {"text", "text_special"}
    assert "".join(token.content for token in inline.children or ()) == f"x {shown}."


@given(st.text(max_size=30))
def test_model_card_metadata_is_yaml_whatever_the_name(name: str) -> None:
    card = card_of(name=name)
    block = yaml.safe_load(text_of(card).split("\n---\n")[0].removeprefix("---\n"))
    assert block == make_metadata(card)


def test_model_card_takes_no_markup_but_text_from_the_team() -> None:
    text = "**Intended use.** <img src=x onerror=alert(1)> `<b>` ![p](data:x) [f](file:///etc)\n# h"
    shown = team_markdown(read_team_text(text).intended_use)
    assert shown == "&lt;img src=x onerror=alert(1)> `&lt;b>` p f"


@given(st.text("`<b>\n\\~ [](:#-", max_size=40))
def test_model_card_takes_no_html_from_the_team(text: str) -> None:
    found = markdown.parse(team_markdown(text))
    inner = [child for token in found for child in token.children or ()]
    kinds = {token.type for token in (*found, *inner)}
    assert kinds.isdisjoint({"html_block", "html_inline"})


def test_team_text_reads_items_headings_and_fences() -> None:
    team = read_team_text(
        "Some **bold** words.\n\n- **Use**: for tests.\n\n## Limits\nMany.\n"
        "```\n**no title.** x\n```\n"
        "**Data.** Rows {{secret}}\x07."
    )
    assert team.intended_use == "for tests."
    assert team.limits == "Many.\n```\n**no title.** x\n```"
    assert team.data == "Rows { {secret}}\\x07."
    assert team.others == (("Description", "Some **bold** words."),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 70_000, "it has more than 65,536 bytes"),
        ("---\nlicense: [\n---\n", "its first block is not YAML"),
        ("---\nowner: me\n---\n", "its first block may have license and data_license"),
        ("---\n- a\n---\n", "its first block may have license and data_license"),
        ("---\nlicense: 2\n---\n", "license: 2 is no licence id"),
        ("---\nlicense: 'a\n\n  b'\n---\n", r"license: 'a\\nb' is no licence id"),
    ],
)
def test_team_text_refuses_what_it_cannot_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_team_text(text)


def test_effort_is_kept_with_an_artifact() -> None:
    from tfx.v1.types.standard_artifacts import Model

    model = Model()
    assert read_effort(model) is None
    stopwatch = Stopwatch("Trainer")
    sum(range(10**6))
    stopwatch.stop(model)
    effort = read_effort(model)
    assert effort is not None
    assert effort.node == "Trainer"
    assert 0 < effort.cpu_seconds < 60
    for wrong in ("{", "[]", '{"node": "x"}', '{"node": "x", "seconds": NaN, "cpu_seconds": 1}'):
        model.set_string_custom_property("effort", wrong)
        assert read_effort(model) is None
