"""Renders a model card as Markdown, in which no text from data becomes markup."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ml.fairness.metrics import ERRORS, RATES

_TEMPLATE = "card.md.j2"
# Of slices and features in the text; the JSON has all.
_MOST_SLICES = 40
_MOST_FEATURES = 15
_NONE = "-"
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_SPECIAL = re.compile(r"([\\`*_\[\](){}#|~$!])")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\((?!https://)[^)\n]*\)")


def escape(text: Any) -> Markup:
    """Any text as Markdown that shows it, in one line, and nothing else.

    It stands in a line that begins with something else, since "1." there would begin a list. What
    does not print is shown as Python writes it.

    Example:
      >>> str(escape("<b>*a*|"))
      '&lt;b&gt;\\\\*a\\\\*\\\\|'
    """
    if isinstance(text, Markup):
        return text
    shown = str(text)
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    shown = _SPECIAL.sub(r"\\\1", shown).translate(_ENTITIES)
    # GitHub and Hugging Face make links of addresses.
    shown = shown.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")
    return Markup(shown)


def team_markdown(text: str) -> Markup:
    """A team's Markdown, without HTML and links to files that are not with the card.

    HTML is text in code too, since where code ends depends on what stands around it.

    Example:
      >>> str(team_markdown("See [data](../data) <script>"))
      'See data &lt;script>'
    """
    return Markup(_LINK.sub(r"\1", text).replace("<", "&lt;"))


def render(card: dict[str, Any], metadata: dict[str, Any]) -> str:
    """Renders a card.

    Args:
      card: The card, see `ml.model_card.card`.
      metadata: What stands in the block of YAML before it.

    Returns:
      Markdown.
    """
    block = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=10_000)
    found = card["fairness"] or {}
    titles = {
        metric.name: metric.title
        for metric in (*RATES, *ERRORS)
        if any(metric.name in row for row in found.get("metrics", ()))
    }
    return _template().render(
        **card,
        block=Markup(block),
        fairness_titles=titles,
        most_slices=_MOST_SLICES,
        most_features=_MOST_FEATURES,
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        # Every value is escaped, but for what this module makes.
        finalize=escape,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    environment.filters |= {"team": team_markdown, "number": _number, "interval": _interval}
    return environment.get_template(_TEMPLATE)


def _number(value: Any) -> Markup:
    """A number with four digits that count; a dash where there is none."""
    if value is None:
        return Markup(_NONE)
    if isinstance(value, int):
        return Markup(f"{value:,}")
    return Markup(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def _interval(estimate: dict[str, Any] | None) -> Markup:
    """A value with its 95% interval, or why it is not known."""
    if estimate is None or estimate.get("value") is None:
        return Markup("unknown" if estimate and estimate.get("unknown") else _NONE)
    shown = _number(estimate["value"])
    if estimate.get("low") is None:
        return shown
    return Markup(f"{shown} ({_number(estimate['low'])} to {_number(estimate['high'])})")
