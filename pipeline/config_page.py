"""Writes docs/configuration.md from the configuration: `python -m pipeline.config_page`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import docstring_parser
from pydantic import TypeAdapter

from pipeline.config import Config, load_config
from pipeline.model_folders import default_model
from pipeline.parameters import KEYS

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
_HEAD = """# Configuration

Four layers, each over those before it:

1. the engine's defaults; `required` where only the model can say the value;
2. the model's `models/<name>/config.toml`; the column `{model}` shows the default model's;
3. a TOML file, `--config FILE`;
4. the command line, `--set key=value`. Lists are JSON, tables as in TOML; switches are `true` or
   `false`.

`--model NAME`, or `--set model=NAME`, chooses another model. A key that does not exist and a value
that is not allowed are refused with the key, the value, what is allowed, and the layer it came
from. A run on Kubeflow can set a key with ↻ to another value (`--param training_epochs=3`).
`make docs` makes this page from the `*config.py` modules of `pipeline/` and the model's
`config.toml`.
"""
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_KINDS = {"object": "table", "number": "float", "boolean": "true, false"}


def render(model: str) -> str:
    """Renders the page as Markdown, with a column for a model's values."""
    page = _Page(load_config(settings=[f"model={model}"]))
    return "\n\n".join([_HEAD.strip().format(model=model), *page.sections()]) + "\n"


class _Page:
    """The sections of the page."""

    def __init__(self, config: Config):
        self._config = config

    def sections(self) -> Iterator[str]:
        """The settings outside of tables, then each table."""
        tables = {
            name: kind
            for name, kind in get_type_hints(Config).items()
            if dataclasses.is_dataclass(kind)
        }
        yield self._section(Config, self._config, "", without=tables)
        for name, kind in tables.items():
            yield f"## {name}"
            yield self._section(kind, getattr(self._config, name), f"{name}.")

    def _section(self, kind: Any, values: Any, prefix: str, without: Container[str] = ()) -> str:
        text = _parse(kind)
        introduction = filter(None, (text.short_description, text.long_description))
        rows = [
            f"| key | default | {self._config.model} | allowed | meaning |",
            "|---|---|---|---|---|",
            *self._rows(kind, values, prefix, without),
        ]
        return "\n\n".join([*introduction, "\n".join(rows)])

    def _rows(self, kind: Any, values: Any, prefix: str, without: Container[str]) -> Iterator[str]:
        meanings = {
            p.arg_name: " ".join((p.description or "").split()) for p in _parse(kind).params
        }
        facts = TypeAdapter(kind).json_schema()["properties"]
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.name in without:
                continue
            key = prefix + field.name
            default, own = _default(field), _show(getattr(values, field.name, None))
            cells = [
                f"`{key}`" + (" ↻" if key in KEYS else ""),
                default,
                "" if own == default or values is None else own,
                _allowed(facts[field.name]),
                meanings[field.name],
            ]
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
            inner = get_args(hints[field.name])[-1:]
            if inner and dataclasses.is_dataclass(inner[0]):
                yield from self._rows(inner[0], None, f"{key}.<name>.", ())


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return _show(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else _show(field.default)


def _parse(kind: Any) -> docstring_parser.Docstring:
    return docstring_parser.parse(kind.__doc__, docstring_parser.DocstringStyle.GOOGLE)


def _show(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False, default=_changes)}`"


def _changes(table: Any) -> dict[str, Any]:
    """The values of a table that differ from its defaults."""
    return {
        field.name: value
        for field in dataclasses.fields(table)
        if _show(value := getattr(table, field.name)) != _default(field)
    }


def _allowed(facts: dict[str, Any]) -> str:
    """The type and limits of a value, in TOML's terms."""
    if "enum" in facts:
        return ", ".join(f'"{value}"' for value in facts["enum"])
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_allowed(choice) for choice in facts["anyOf"]))
    kind = facts.get("type", "")
    limits = [f"{sign} {facts[key]}" for key, sign in _LIMITS.items() if key in facts]
    return ", ".join([_KINDS.get(kind, kind), *limits])


if __name__ == "__main__":
    PAGE.write_text(render(default_model()), encoding="utf-8")
