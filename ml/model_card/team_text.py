"""Reads what a model's team says of it: `models/<name>/card.md`.

It is Markdown: paragraphs or items that open with a bold title that ends in a dot or colon, as in
`**Intended use.** ...`, or sections under headings. Before it there may be a block of YAML between
lines of `---`:

    ---
    license: apache-2.0
    data_license: cc0-1.0
    ---
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

LARGEST_BYTES = 64 * 1024
_BLOCK = re.compile(r"\A---\n(.*?)\n?^---\n", re.DOTALL | re.MULTILINE)
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_KEYS = ("license", "data_license")
# A bold title or a heading of the second level and below, at the start of a line.
_TITLE = re.compile(
    r"^(?:[-*] )?\*\*(?P<bold>[^*\n]+?)(?:[.:]\*\*|\*\*[.:]) ?|^#{2,6} (?P<head>.+)$"
)
_HEADING = re.compile(r"^# .*$")
# What a person calls a section, and its key in a card.
_NAMES = {
    "intended use": "intended_use",
    "use": "intended_use",
    "limits": "limits",
    "limitations": "limits",
    "data": "data",
    "licence": "licence",
    "license": "licence",
}
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True)
class TeamText:
    """What a team says of its model.

    Attributes:
      text: All of it, without what does not print.
      license: Licence of the model, as Hugging Face names licences; "" if it is not said.
      data_license: Licence of the data.
      intended_use: Markdown; "" if it is not said, as the next three.
      data: Markdown.
      limits: Markdown.
      licence: Markdown, on licences.
      others: Other sections, title and Markdown.
    """

    text: str = ""
    license: str = ""
    data_license: str = ""
    intended_use: str = ""
    data: str = ""
    limits: str = ""
    licence: str = ""
    others: tuple[tuple[str, str], ...] = field(default=())


def read_team_text(text: str) -> TeamText:
    """Reads a team's text.

    Example:
      >>> read_team_text("# Taxi\\n\\n**Intended use.** An example.\\n").intended_use
      'An example.'

    Args:
      text: The content of `card.md`; "" if there is none.

    Raises:
      ValueError: If it is too large, or its YAML is not a table of licences.
    """
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES:,} bytes")
    text = "\n".join(map(_plain, text.replace("\r\n", "\n").split("\n")))
    whole = text
    facts: dict[str, str] = {}
    if block := _BLOCK.match(text):
        facts, text = _read_block(block[1]), text[block.end() :]
    found: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for title, content in _sections(text):
        key = _NAMES.get(title.lower())
        if key and key not in found:
            found[key] = content
        elif content:
            others.append((title, content))
    return TeamText(whole, **facts, **found, others=tuple(others))


def _plain(line: str) -> str:
    """A line without control characters; braces that Kubeflow and Argo replace are taken apart."""
    shown = line.replace("\t", "    ")
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    while "{{" in shown:
        shown = shown.replace("{{", "{ {")
    return shown


def _read_block(text: str) -> dict[str, str]:
    try:
        facts = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"its first block is not YAML: {reason}") from error
    if not isinstance(facts, dict) or not set(facts) <= set(_KEYS):
        raise ValueError(f"its first block may have {' and '.join(_KEYS)}, and nothing else")
    for key, value in facts.items():
        if not isinstance(value, str) or not _LICENSE.fullmatch(value):
            raise ValueError(f"{key}: {value!r} is no licence id such as apache-2.0 or cc0-1.0")
    return {str(key): value for key, value in facts.items()}


def _sections(text: str) -> list[tuple[str, str]]:
    """Titles and contents; what stands before the first title is called "Description"."""
    sections: list[tuple[str, list[str]]] = [("Description", [])]
    fenced = False
    for line in text.split("\n"):
        fence = bool(_FENCE.match(line))
        fenced ^= fence
        title = None if fenced or fence else _TITLE.match(line)
        if title is None:
            if fenced or not _HEADING.match(line):
                sections[-1][1].append(line)
            continue
        name = title["head"] or title["bold"]
        rest = "" if title["head"] else line[title.end() :]
        sections.append((name.strip(" .:"), [rest]))
    return [(title, "\n".join(lines).strip()) for title, lines in sections]
