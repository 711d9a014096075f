"""Where a run's results come from: nodes, their times and artifacts, data, code and libraries."""

from __future__ import annotations

from typing import Any

from report.run import CACHED, Run
from storage.uris import exists

_MOST_MODULES = 400


def describe_lineage(run: Run) -> dict[str, Any]:
    """What the template shows of the lineage."""
    ends = [node.began + (node.seconds or 0.0) for node in run.nodes if node.began is not None]
    total = max(ends, default=0.0) or 1.0
    provenance = run.provenance
    origin = provenance.get("origin") or {}
    return {
        "nodes": [
            {
                "name": node.name,
                "state": node.state,
                "line": node.line,
                "seconds": node.seconds,
                "start": None if node.began is None else node.began / total,
                "share": (node.seconds or 0.0) / total,
            }
            for node in run.nodes
        ],
        "artifacts": [
            {
                "node": node.name,
                "key": key,
                "uri": artifact.uri,
                "from": _made_by(artifact.uri, run) if node.state == CACHED else "",
                "there": _is_there(artifact.uri),
            }
            for node in run.nodes
            for key, artifact in node.outputs.items()
        ],
        "facts": {
            name: value
            for name, value in {
                "run key (data, configuration and code)": run.run_key,
                "model digest": provenance.get("model_digest"),
                "schema, SHA-256": origin.get("schema"),
                "version served before": origin.get("base_version"),
                "log": run.log,
            }.items()
            if value
        },
        "data": sorted((provenance.get("data") or {}).items()),
        "libraries": sorted((provenance.get("libraries") or {}).items()),
        "code": sorted((origin.get("code") or {}).items())[:_MOST_MODULES],
    }


def _is_there(uri: str) -> bool:
    """Whether an artifact's folder is there, as far as that can be told."""
    try:
        return exists(uri)
    except (OSError, ValueError):
        return True


def _made_by(uri: str, run: Run) -> str:
    """The run that made an artifact that came from the cache: its folder's name says it."""
    parts = uri.rstrip("/").split("/")
    return parts[-4] if len(parts) > 3 and parts[-4] != run.run_id else ""
