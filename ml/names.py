"""Names of columns, and names for them where TensorFlow cannot carry their own.

A column may be called `trip.miles`, `two words` or `größe`. Keys of tf.Examples, of signatures in
`saved_model.pb` and of signatures in a TFLite model are free text, and are the columns' names.
Names in a graph, of Keras layers and of arguments are not: TensorFlow changes some of them and
refuses others.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from storage.names import PREDICTION_PREFIX, REQUEST_FEATURES

_LONGEST = 64
# Inputs of signatures that take serialized tf.Examples.
_OF_EXAMPLES = ("examples", "inputs")
# Control characters, halves of characters, and ends of lines.
_UNUSABLE = ("Cc", "Cs", "Zl", "Zp")


def check_column(name: str) -> str:
    """Checks the name of a column that a model reads.

    Example:
      >>> check_column("two words")
      'two words'
      >>> check_column("two\\nlines")
      Traceback (most recent call last):
      ValueError: 'two\\nlines' has a line break or a control character; rename the column

    Returns:
      The name.

    Raises:
      ValueError: If nothing can carry it, or it means something else in a request or its log.
    """
    reason = ""
    if not name.strip():
        reason = "is an empty name"
    elif any(unicodedata.category(character) in _UNUSABLE for character in name):
        reason = "has a line break or a control character"
    elif name in REQUEST_FEATURES or name.startswith(PREDICTION_PREFIX):
        reason = "is a name of the request log"
    elif name == "self":
        reason = "is no name that LiteRT takes on a device"
    if reason:
        raise ValueError(f"{name!r} {reason}; rename the column")
    return name


def check_features(names: tuple[str, ...]) -> tuple[str, ...]:
    """Checks the features of a request: columns, each of them once.

    Returns:
      Their names.

    Raises:
      ValueError: If there is none, one occurs twice, or the only one would be taken for serialized
        tf.Examples.
    """
    if not names:
        raise ValueError("a feature or more is expected")
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{name!r} is listed {count} times")
    if len(names) == 1 and names[0] in _OF_EXAMPLES:
        raise ValueError(
            f"{names[0]!r}, as the only feature, is what a request calls serialized tf.Examples; "
            "rename the column"
        )
    return names


def graph_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Makes names that are valid and unique in TensorFlow and Keras.

    A valid name stays as it is. The result depends on the names, not on their order.

    Example:
      >>> graph_names(["a.b", "a_b", "größe", "1st"])
      {'a_b': 'a_b', '1st': 'x_1st', 'a.b': 'a_b_2', 'größe': 'gr_e'}

    Args:
      names: Any names, such as those of columns.
      taken: Names that the graph has already, such as those of layers.

    Returns:
      By name: a letter, then letters, digits and underscores, all ASCII. No two are the same in
      small letters, which is how TensorFlow compares them.
    """
    used = {name.lower() for name in taken}
    found = {}
    for name in sorted(set(names), key=lambda name: (name != _valid(name), name)):
        valid = candidate = _valid(name)
        number = 1
        while candidate.lower() in used:
            number += 1
            candidate = f"{valid}_{number}"
        used.add(candidate.lower())
        found[name] = candidate
    return found


def _valid(name: str) -> str:
    if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) and len(name) <= _LONGEST:
        valid = name
    else:
        valid = re.sub(r"[^A-Za-z0-9]+", "_", name)[:_LONGEST].strip("_")
    # Arguments in Python cannot have these names.
    if not valid[:1].isalpha() or keyword.iskeyword(valid) or valid == "self":
        valid = f"x_{valid}".rstrip("_")
    return valid
