"""What a person fills in to try a version in the playground: its inputs, with a value of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """An input of a row.

    Attributes:
      name: Its name.
      kind: "float", "integer", "boolean", "text", or "list" for all that is not a single value.
      dtype: As TensorFlow's messages say it: `float`, `int64`, `string`.
      shape: Shape of one row, with None for a size that varies; None if anything goes.
      optional: Whether a request may leave it out.
      zero: A value of zeros; that of a list as JSON has it.
      example: The value of a real row in the same form; "" if it is absent there. None if there is
        no such row.
      choices: Values that the model knows, the most frequent first; none if that is not known.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | None, ...] | None
    optional: bool
    zero: str
    example: str | None
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """The inputs of a version as a person fills them in.

    Attributes:
      signature: Name of the signature; empty if the version has none whose inputs a form can have.
      fields: Its inputs.
      task: "binary", "multiclass", "regression", or "" where the signatures do not tell.
      classes: Names of the classes in the order of the prediction; of a binary task, the second is
        the one whose probability is predicted.
    """

    signature: str = ""
    fields: tuple[Field, ...] = ()
    task: str = ""
    classes: tuple[str, ...] = ()

    def to_json(self, *, with_example: bool) -> dict[str, Any]:
        """The form for the page.

        Args:
          with_example: Whether the client may see the values of a real row.
        """
        return {
            "signature": self.signature,
            "task": self.task,
            "classes": self.classes,
            "has_example": with_example and any(one.example is not None for one in self.fields),
            "fields": [
                {
                    "name": field.name,
                    "kind": field.kind,
                    "dtype": field.dtype,
                    "shape": field.shape,
                    "optional": field.optional,
                    "value": field.zero
                    if field.example is None or not with_example
                    else field.example,
                    "choices": field.choices,
                }
                for field in self.fields
            ],
        }
