"""Renders the files of a new model, writes them, and compares them with those that stand there."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from ml.tasks import BINARY, MULTICLASS, REGRESSION
from orchestration.new_model.columns import Column, Role
from orchestration.new_model.reading import Look
from orchestration.new_model.settings import Settings
from orchestration.new_model.task import Target
from storage.atomic_write import whole_file
from storage.errors import UserError
from storage.table_formats import TextFormat

_WIDTH = 100
_SECONDS_OF_WEEK = 7 * 24 * 3600
_FIRST_MONDAY = 4 * 24 * 3600  # 1970-01-05.
_ABSENT = 0.01  # A smaller share of absent values gets no indicator.
_MOST_INDICATORS = 30
# Sparsity by the rows to train on: a small network has fewer weights to spare.
_SPARSITIES = ((5000, 0.5), (100_000, 0.6), (math.inf, 0.8))


@dataclass(frozen=True)
class Draft:
    """All that is known of a new model.

    Attributes:
      name: Its folder below `models/`.
      look: The data.
      columns: The columns with their roles.
      target: The label.
      settings: The settings.
      schema: The schema as text.
    """

    name: str
    look: Look
    columns: tuple[Column, ...]
    target: Target
    settings: Settings
    schema: str

    @property
    def features(self) -> list[str]:
        """The features of a request."""
        return [column.name for column in self.columns if column.is_feature]

    def of_role(self, *roles: Role) -> list[Column]:
        """The columns that have one of some roles."""
        return [column for column in self.columns if column.role in roles]


def render(draft: Draft) -> dict[str, str]:
    """Renders all files of a model: their contents by path below the project."""
    facts = _facts(draft)
    package = f"models/{draft.name}"
    return {
        f"{package}/__init__.py": "",
        f"{package}/config.toml": _render("config.toml", facts),
        f"{package}/preprocessing.py": _render("preprocessing.py", facts),
        f"{package}/network.py": _render("network.py", facts),
        f"{package}/card.md": _render("card.md", facts),
        f"schema/{draft.name}.pbtxt": draft.schema,
        f"tests/models/{draft.name}/test_model.py": _render("test_model.py", facts),
    }


def refuse_existing(project: Path, name: str) -> None:
    """Refuses a name of which something exists already.

    Raises:
      UserError: If a file or folder of the model exists.
    """
    for path in (f"models/{name}", f"schema/{name}.pbtxt", f"tests/models/{name}"):
        if os.path.lexists(project / path):
            raise UserError(
                f"{path} exists, and nothing is overwritten: choose another name, delete it, or "
                "use --compare to see what the data suggest today"
            )


def write(project: Path, files: Mapping[str, str]) -> None:
    """Writes the files of a new model; those of the model's folder last, so that it is whole."""
    for path in sorted(files, key=lambda path: path.startswith("models/")):
        target = project / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(str(target), replace=False) as file:
            file.write(files[path].encode())


def compare(project: Path, files: Mapping[str, str]) -> Iterator[str]:
    """Lines of a unified diff from the files that stand there to those that would be written."""
    for path, content in sorted(files.items()):
        target = project / path
        before = target.read_text("utf-8") if target.is_file() else ""
        yield from difflib.unified_diff(
            before.splitlines(), content.splitlines(), path, f"{path} (suggested)", lineterm=""
        )


def _facts(draft: Draft) -> dict[str, Any]:
    """The variables of the templates."""
    settings, target = draft.settings, draft.target
    categories, codes = draft.of_role(Role.CATEGORY), draft.of_role(Role.CODE)
    numbers, buckets = draft.of_role(Role.NUMBER), draft.of_role(Role.SKEWED)
    logarithms = draft.of_role(Role.LOGARITHM)
    times, vectors = draft.of_role(Role.TIME), draft.of_role(Role.VECTOR)
    shares = draft.of_role(Role.SHARES)
    absent = [
        c
        for c in sorted(numbers + logarithms + buckets, key=lambda c: -c.facts.share_missing)
        if c.facts.share_missing > _ABSENT
    ][:_MOST_INDICATORS]
    ids, numeric = (
        next(name for name in (name, f"{name}_features") if name != target.facts.name)
        for name in ("ids", "numeric")
    )
    has_ids = bool(categories or codes)
    has_numeric = bool(numbers or logarithms or buckets or times or vectors or shares)
    starts = [c.facts.minimum for c in times if c.facts.minimum is not None]
    sizes = [c.facts.distinct for c in categories + codes]
    parameters = ["sizes: list[int]"] * has_ids + ["width: int"] * has_numeric
    imports = (
        ["CATEGORIES"] * bool(categories)
        + ["CODES"] * bool(codes)
        + ["IDS"] * has_ids
        + ["NUMERIC"] * has_numeric
        + ["vocabulary"] * bool(categories)
    )
    transforms = (
        ["category_ids"] * bool(categories)
        + ["code_ids"] * bool(codes)
        + ["is_absent"] * bool(absent)
        + ["quantile_ranks"] * bool(buckets)
        + ["shares"] * bool(shares)
        + ["standard_scores"] * bool(numbers or logarithms or vectors)
        + ["time_circles"] * bool(times)
    )
    left_out = [f"`{c.name}` ({c.why})" for c in draft.columns if c.role is Role.LEFT_OUT]
    skewed = target.kind == REGRESSION and target.skewed
    return {
        "name": draft.name,
        "model": draft.name,
        "target": target,
        "settings": settings,
        "prediction": {BINARY: "probability", MULTICLASS: "probabilities", REGRESSION: "value"}[
            target.kind
        ],
        "what": _what(target),
        "features": draft.features,
        "uri": settings.source.uri,
        "text_settings": _text_settings(settings.source.text),
        "schema_path": f"schema/{draft.name}.pbtxt",
        "skewed": skewed,
        "span_count": len(draft.look.rows),
        "spans": len(draft.look.rows),
        "hashed": len(draft.look.rows) == 1,
        "rows": draft.look.count,
        "column_count": len(draft.columns),
        "left_out": ", ".join(left_out) or "none",
        "sparsity": next(share for rows, share in _SPARSITIES if settings.train_rows < rows),
        "serving_rows": min(200, settings.test_rows),
        "monitor_rows": max(100, min(2000, settings.test_rows // 2)),
        "categories": [c.name for c in categories],
        "codes": {c.name: sorted(int(v) for v, _ in c.facts.values) for c in codes},
        "numbers": [c.name for c in numbers],
        "logarithms": [c.name for c in logarithms],
        "buckets": [c.name for c in buckets],
        "absent": [c.name for c in absent],
        "times": [c.name for c in times],
        "vectors": [c.name for c in vectors],
        "shares": {c.name: int(c.facts.maximum or 1) for c in shares},
        "monday": _monday_before(int(min(starts, default=0))),
        "rare": 20 if settings.train_rows > 20_000 else 2,
        "ids_name": ids,
        "numeric_name": numeric,
        "has_ids": has_ids,
        "has_numeric": has_numeric,
        "hidden": settings.hidden,
        "embedding": 8 if max(sizes, default=0) > 10 else 4,
        "imports": ", ".join(imports),
        "transforms": ", ".join(transforms),
        "first": {
            (True, True): "layers.Concatenate()([embedded, numeric])",
            (True, False): "embedded",
            (False, True): "numeric",
        }[has_ids, has_numeric],
        "inputs": "{"
        + ", ".join(["IDS: ids"] * has_ids + ["NUMERIC: numeric"] * has_numeric)
        + "}",
        "outputs": len(target.classes) if target.kind == MULTICLASS else 1,
        "regression": target.kind == REGRESSION,
        "arguments": ", ".join(["sizes"] * has_ids + ["width"] * has_numeric),
        "signature": _signature(parameters),
        "example_weight": next((c.name for c in draft.of_role(Role.WEIGHT)), ""),
    }


def _what(target: Target) -> str:
    if target.kind == REGRESSION:
        return "a number"
    return f"one of {len(target.classes)} classes: {', '.join(target.classes[:20])}"


def _text_settings(text: TextFormat) -> dict[str, Any]:
    """How text files are written, where it is not the default."""
    default = asdict(TextFormat())
    return {key: value for key, value in asdict(text).items() if value != default[key]}


def _monday_before(seconds: int) -> int:
    return (seconds - _FIRST_MONDAY) // _SECONDS_OF_WEEK * _SECONDS_OF_WEEK + _FIRST_MONDAY


def _signature(parameters: Sequence[str]) -> str:
    inner = ", ".join(["learning: Learning", *parameters, "labels: np.ndarray"])
    line = f"def build_model({inner}) -> tf_keras.Model:"
    if len(line) <= _WIDTH:
        return line
    return f"def build_model(\n    {inner}\n) -> tf_keras.Model:"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _tuple(items: Iterable[str], prefix: int = 40) -> str:
    """A tuple in one line, or one item to a line."""
    items = list(items)
    line = ", ".join(items) + ("," if len(items) == 1 else "")
    if len(line) + prefix <= _WIDTH:
        return f"({line})"
    return "(\n" + "".join(f"    {item},\n" for item in items) + ")"


def _toml_list(items: Iterable[str]) -> str:
    texts = [_quoted(item) for item in items]
    if sum(len(text) + 2 for text in texts) <= _WIDTH - 20:
        return f"[{', '.join(texts)}]"
    lines, line = [], "   "
    for text in texts:
        if len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {text},"
    return "[\n" + "\n".join([*lines, line]) + "\n]"


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _toml_list(value)
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _render(template: str, facts: Mapping[str, Any]) -> str:
    return _templates.get_template(f"{template}.j2").render(facts).rstrip("\n") + "\n"


# Code and settings, no markup: values are quoted by the filters.
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,
)
_templates.filters.update(
    quoted=_quoted,
    tuple_of=lambda names: _tuple(map(_quoted, names)),
    numbers_of=lambda numbers: _tuple(map(str, numbers)),
    toml=_quoted,
    toml_list=_toml_list,
    toml_value=_toml_value,
)
