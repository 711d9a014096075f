"""Whether the files of a window are complete."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
from pyarrow import fs

from orchestration.local.situation import Situation
from storage import spans
from storage.errors import one_line
from storage.table_formats import Format


def unfinished(situation: Situation, now: datetime, settle_seconds: float) -> tuple[str, float]:
    """Checks whether the files of a window are complete.

    Args:
      situation: What there is.
      now: The time.
      settle_seconds: Files younger than this may not be complete.

    Returns:
      What is not complete, "" if all is; and the seconds until it may be, 0 if unknown.
    """
    # Here, because a firing that finds nothing new needs it not.
    from storage.parquet import open_file

    files, _ = spans.filesystem(situation.data_uri)
    young, wait = "", 0.0
    for info in files.get_file_info(list(situation.files)):
        if info.type == fs.FileType.NotFound:
            return f"{info.path} is gone again", min(1.0, settle_seconds)
        try:
            if Format.of(info.path) is Format.PARQUET:  # Of a text file, only the age tells.
                open_file(info.path, files)
        except (OSError, pa.ArrowException) as error:
            reason = one_line(error)
            return f"{info.path} ({info.size:,} bytes) is not a whole Parquet file: {reason}", 0.0
        age = (now - info.mtime).total_seconds() if info.mtime else settle_seconds
        if abs(age) < settle_seconds and settle_seconds - age > wait:
            young, wait = f"{info.path} was written just now", settle_seconds - age
    return young, min(wait, settle_seconds)
