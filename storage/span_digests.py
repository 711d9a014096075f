"""Digests of what the files of spans hold, wherever they are and whenever they were copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pyarrow import fs

from storage.errors import DataError
from storage.span_store import SpanStore
from storage.spans import DataSource, Span, filesystem

# Kind of the entries of the store.
_CONTENT = "content"
_CHUNK = 1 << 20


def digest_spans(
    source: DataSource, spans: Iterable[Span], store: SpanStore | None = None
) -> dict[str, str]:
    """Identifies the content of spans: the names of their files and every byte of them.

    Args:
      source: The data.
      spans: Some of its spans.
      store: Keeps the digests of files that did not change; None reads every file.

    Returns:
      By number of the span, as text, 64 hexadecimal digits.

    Raises:
      DataError: If a file cannot be read.
    """
    files, _ = filesystem(source.uri)
    store = store or SpanStore("")
    found = {}
    for span in spans:
        digest = hashlib.sha256()
        for path, version in zip(span.files, span.versions, strict=True):
            content = _digest_file(files, span, path, version, store)
            digest.update(f"{path.rpartition('/')[2]} {content}\n".encode())
        found[str(span.number)] = digest.hexdigest()
    return found


def _digest_file(
    files: fs.FileSystem, span: Span, path: str, version: str, store: SpanStore
) -> str:
    number = 0 if span.within else span.number
    key = hashlib.sha256(repr((path, version)).encode()).hexdigest()[:16]
    kept = store.read(_CONTENT, number, key)
    if kept is not None and len(kept) == 64 and kept.isalnum():
        return kept.decode()
    digest = hashlib.sha256()
    try:
        # By default the file's name would decide about decompression.
        with files.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    store.write(_CONTENT, number, key, digest.hexdigest().encode())
    return digest.hexdigest()
