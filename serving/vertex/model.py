"""What is known of a model where something of it on Vertex AI is changed."""

from __future__ import annotations

from collections.abc import Callable

from cloud.vertex import Vertex


class VertexModel:
    """A model on Vertex AI.

    Args:
      vertex: The connection.
      model_name: Name of the model in the Serving directory.
      poll_seconds: Longest time between two looks while Vertex AI works.
      say: Called with a line about each step.
    """

    def __init__(
        self, vertex: Vertex, model_name: str, poll_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._vertex = vertex
        self._model_name = model_name
        self._poll_seconds = poll_seconds
        self._say = say
