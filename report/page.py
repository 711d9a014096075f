"""Makes the page of a run: one HTML document that refers to nothing outside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from report import texts
from report.data import describe_data, nearest_drift
from report.evaluation import describe_evaluation, headline
from report.insight import describe_explanations, describe_fairness
from report.learning import describe_compression, describe_training, describe_trial
from report.lineage import describe_lineage
from report.reading import Absent
from report.run import COMPLETE, FAILED, SKIPPED, Node, Run
from report.tuning import describe_tuning

# How an outcome or a check looks: good, bad, or neither.
GOOD, BAD, PLAIN = "good", "bad", "plain"
TONES = {
    "pushed": GOOD,
    "failed": BAD,
    "killed": BAD,
    "stopped by the gate": BAD,
    "not blessed": BAD,
}
# Nodes that may keep a model from being pushed, in the order of the pipeline.
CHECKS = {
    "DataGate": "Is the data as it should be?",
    "CompressionEvaluator": "Is the compressed model as good as the float one?",
    "Evaluator": "Is the model good enough, and as good as the served one?",
    "Explainer": "Does it rely on what it should?",
    "ServingValidator": "Does a real server answer real requests with it?",
    "Pusher": "Was it pushed?",
}
_FILTERS: tuple[Callable[..., str], ...] = (
    texts.clip,
    texts.duration,
    texts.moment,
    texts.number,
    texts.percent,
    texts.plain,
    texts.signed,
    texts.size,
    texts.spans,
    texts.width,
)
_SECTIONS: dict[str, tuple[str, Callable[[Run], dict[str, Any]]]] = {
    "data": ("Data", describe_data),
    "tuning": ("Tuning", describe_tuning),
    "training": ("Training", describe_training),
    "compression": ("Compression", describe_compression),
    "evaluation": ("Evaluation", describe_evaluation),
    "fairness": ("Fairness", describe_fairness),
    "explanations": ("Explanations", describe_explanations),
    "serving": ("Serving trial", describe_trial),
    "lineage": ("Lineage", describe_lineage),
}


@dataclass(frozen=True)
class Page:
    """A page, and what the index shows of the run.

    Attributes:
      html: The document.
      facts: Plain values for JSON.
    """

    html: str
    facts: dict[str, Any]


def make_page(run: Run, index: str = "") -> Page:
    """Makes the page of a run.

    What cannot be read is said in its section; it never keeps the page from being made.

    Args:
      run: The run; its artifacts may be local or in an object store.
      index: Relative address of the index; "" without one.

    Returns:
      The page. Nothing from data, names or files is markup in it.
    """
    sections = {n: s for n, s in _SECTIONS.items() if n != "tuning" or run.node("Tuner")}
    found = {name: _describe(name, describe, run) for name, (_, describe) in sections.items()}
    facts = _facts(run, found)
    html = render(
        "run.html.j2",
        run=run,
        index=index,
        tone=TONES.get(run.outcome, PLAIN),
        checks=list(_checks(run)),
        tiles=list(_tiles(found)),
        titles={name: title for name, (title, _) in sections.items()},
        **found,
    )
    return Page(html, facts)


def render(template: str, **values: Any) -> str:
    """Renders a template of this package; all values but its own markup are escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=texts.clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in (
        "number",
        "plain",
        "signed",
        "percent",
        "size",
        "duration",
        "moment",
        "spans",
        "width",
    ):
        environment.filters[name] = getattr(texts, name)
    environment.filters["clip"] = texts.clip
    return environment.get_template(template).render(**values)


def _describe(name: str, describe: Callable[[Run], dict[str, Any]], run: Run) -> dict[str, Any]:
    try:
        return {"note": "", **describe(run)}
    except Absent as absent:
        return {"note": str(absent)}
    except Exception as error:  # Files of another release, or damaged ones.
        logging.warning("The section %s cannot be made", name, exc_info=True)
        return {"note": f"This cannot be shown: {type(error).__name__}: {error}"}


def _checks(run: Run) -> Iterator[dict[str, Any]]:
    """What decided, the failed ones first, then in the order of the pipeline."""
    found = []
    for node in run.nodes:
        if node.name in CHECKS or node.state == FAILED:
            tone, verdict = _verdict(node)
            if node.name == "Pusher" and tone == GOOD:
                tone, verdict = (GOOD, "pushed") if run.version else (PLAIN, "not pushed")
            found.append(
                {
                    "name": node.name,
                    "question": CHECKS.get(node.name, ""),
                    "tone": tone,
                    "verdict": verdict,
                    "line": node.line,
                    "details": node.details if tone == BAD else (),
                }
            )
    order = list(CHECKS)
    yield from sorted(
        found,
        key=lambda check: (
            check["tone"] != BAD,
            order.index(check["name"]) if check["name"] in order else -1,
        ),
    )


def _verdict(node: Node) -> tuple[str, str]:
    if node.state == FAILED:
        return BAD, "stopped the run" if node.name == "DataGate" else "failed"
    if node.state == SKIPPED:
        return PLAIN, "not reached"
    if node.blessed is False:
        return BAD, "not blessed"
    if node.blessed:
        return GOOD, "blessed"
    return (GOOD, "passed") if node.state else (PLAIN, "unknown")


def _tiles(found: dict[str, dict[str, Any]]) -> Iterator[dict[str, str]]:
    """The few figures that a person looks for first."""
    evaluation = found["evaluation"]
    for row in (evaluation.get("metrics") or [])[:1]:
        about = f"on {texts.number(evaluation['rows'], 12)} rows"
        if row.get("low") is not None:
            about = f"95% interval {texts.number(row['low'])} to {texts.number(row['high'])}"
        yield {"title": row["title"], "value": texts.number(row.get("value")), "about": about}
        if row.get("change") is not None:
            yield {
                "title": "against the served model",
                "value": texts.signed(row["change"]),
                "about": f"it has {texts.number(row['baseline'])}",
            }
    modes = found["compression"].get("modes") or {"shown": []}
    original = next((m["bytes"] for m in modes["shown"] if m["name"] == "float"), None)
    for mode in modes["shown"]:
        if mode["chosen"]:
            smaller = ""
            if original and mode["bytes"]:
                smaller = f", {texts.number(original / mode['bytes'], 2)} times smaller"
            about = f"{mode['name']}{smaller}"
            yield {"title": "model.tflite", "value": texts.size(mode["bytes"]), "about": about}
    if (pruning := found["compression"].get("pruning")) and pruning["sparsity"] is not None:
        sparsity = texts.percent(pruning["sparsity"])
        yield {"title": "sparsity", "value": sparsity, "about": "of the weights are zero"}
    trials = found["serving"].get("trials") or []
    if times := [t["p99_ms"] for t in trials if isinstance(t.get("p99_ms"), int | float)]:
        yield {
            "title": "slowest request",
            "value": f"{texts.number(max(times), 2)} ms",
            "about": "99th percentile of the trial",
        }
    for split in found["data"].get("splits") or []:
        if split["name"] == "train" and split["rows"] is not None:
            about = "to learn from"
            yield {"title": "rows", "value": texts.number(split["rows"], 9), "about": about}


def _facts(run: Run, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    modes = found["compression"].get("modes") or {"shown": []}
    chosen: dict[str, Any] = next((mode for mode in modes["shown"] if mode["chosen"]), {})
    pruning = found["compression"].get("pruning") or {}
    rivals = found["evaluation"].get("rivals") or []
    return {
        "run_id": run.run_id,
        "outcome": run.outcome,
        "version": run.version,
        "months": {split: list(numbers) for split, numbers in run.months.items()},
        "headline": headline(run),
        "baselines": {rival.get("name"): rival.get("value") for rival in rivals},
        "bytes": chosen.get("bytes"),
        "p99_ms": chosen.get("p99_ms"),
        "sparsity": pruning.get("sparsity"),
        "drift": nearest_drift(run),
        "rows": {s["name"]: s["rows"] for s in found["data"].get("splits") or []},
        "complete": all(node.state in (COMPLETE, "cached") for node in run.nodes),
    }
