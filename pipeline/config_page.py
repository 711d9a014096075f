"""Writes docs/configuration.md from the configuration: `python -m pipeline.config_page`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docstring_parser
from pydantic import TypeAdapter

from pipeline.config import Config

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
_HEAD = """# Configuration

A TOML file (`--config`) and `--set key=value` override these defaults. A key that does not exist,
and a value that is not allowed, are refused with the key, the value and what is allowed. This page
is made from `pipeline/config.py` by `make docs`.
"""
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def render() -> str:
    """The page, as Markdown."""
    schema = TypeAdapter(Config).json_schema()
    tables = schema["$defs"]
    own = {name: facts for name, facts in schema["properties"].items() if "$ref" not in facts}
    sections = [_section({**schema, "properties": own}, tables)]
    for name, facts in schema["properties"].items():
        if "$ref" in facts:
            table = tables[facts["$ref"].rpartition("/")[2]]
            sections += [f"## {name}", _section(table, tables, f"{name}.")]
    return "\n\n".join([_HEAD.strip(), *sections]) + "\n"


def _section(table: dict[str, Any], tables: dict[str, Any], prefix: str = "") -> str:
    text = docstring_parser.parse(table["description"], docstring_parser.DocstringStyle.GOOGLE)
    introduction = filter(None, (text.short_description, text.long_description))
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    rows += _rows(table, tables, prefix)
    return "\n\n".join([*introduction, "\n".join(rows)])


def _rows(table: dict[str, Any], tables: dict[str, Any], prefix: str) -> Iterator[str]:
    text = docstring_parser.parse(table["description"], docstring_parser.DocstringStyle.GOOGLE)
    meanings = {
        param.arg_name: " ".join((param.description or "").split()) for param in text.params
    }
    for name, facts in table["properties"].items():
        default = json.dumps(facts["default"], ensure_ascii=False) if "default" in facts else "{}"
        cells = [f"`{prefix}{name}`", f"`{default}`", _allowed(facts), meanings[name]]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        inner = facts.get("additionalProperties", {})
        if isinstance(inner, dict) and "$ref" in inner:
            nested = tables[inner["$ref"].rpartition("/")[2]]
            yield from _rows(nested, tables, f"{prefix}{name}.<name>.")


def _allowed(facts: dict[str, Any]) -> str:
    """The type of a value and its limits, in words of TOML."""
    if "enum" in facts:
        return ", ".join(f'"{value}"' for value in facts["enum"])
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_allowed(choice) for choice in facts["anyOf"]))
    kind = {"object": "table", "number": "float"}.get(facts.get("type", ""), facts.get("type", ""))
    limits = [f"{sign} {facts[key]}" for key, sign in _LIMITS.items() if key in facts]
    return ", ".join([kind, *limits])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
