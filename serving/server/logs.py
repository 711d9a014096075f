"""The server's log: one JSON object a line on the standard output."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("serving")
_LONGEST_TEXT = 2000


def start_logging() -> None:
    """Sends the log to the standard output, and the libraries' warnings with it."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    # It has a handler of its own, and warns of what there is no other way to do.
    tensorflow = logging.getLogger("tensorflow")
    tensorflow.handlers.clear()
    tensorflow.setLevel(logging.ERROR)
    # It warns of each malformed request, which anybody can send as fast as the network is.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def log_event(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Writes a line.

    Args:
      event: What happened, in a word.
      level: How bad it is.
      **fields: What belongs to it; must be JSON.
    """
    if _LOGGER.isEnabledFor(level):
        # Without a look for the line of code that calls, which nobody reads.
        record = logging.LogRecord(_LOGGER.name, level, "", 0, event, (), None)
        record.fields = fields
        _LOGGER.handle(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        for name, value in line.items():
            if isinstance(value, str) and len(value) > _LONGEST_TEXT:
                line[name] = f"{value[:_LONGEST_TEXT]}..."
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
