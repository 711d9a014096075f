"""The lineage of a pushed version, as a tree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from rich.tree import Tree

from orchestration.local.metadata import MetadataGone, open_metadata
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import read_provenance
from orchestration.local.version_lookup import find_version, verified_copy
from storage.encryption_keys import EncryptionError
from storage.errors import UserError
from storage.keys import SignatureError

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore

_LONGEST_VALUE = 60


def trace(output: Path, version: int | None, model: str | None) -> Tree:
    """Traces a version of the Serving directory back, its signature verified.

    Args:
      output: The output directory.
      version: The version; None for the one that is served.
      model: The model, by its folder or its name in the Serving directory; None if there is but
        one.

    Raises:
      UserError: If there is no such version, or it cannot be read.
    """
    directory, models, version = find_version(output, version, model)
    try:
        signature, copy = verified_copy(models, version)
        with copy:
            provenance = read_provenance(copy.directory, version)
            state = "live" if version == models.served() else "older"
            facts = ["rolled back" if version in models.rolled_back() else state, signature]
            for schema in sorted(Path(copy.directory.provenance_uri(version)).glob("*.pbtxt")):
                digest = hashlib.sha256(schema.read_bytes()).hexdigest()
                here = Path(models.provenance_uri(version), schema.name)
                facts.append(f"schema: {here}, SHA-256 {digest[:16]}")
    except (SignatureError, EncryptionError, OSError, ValueError) as error:
        raise UserError(str(error)) from error
    return lineage(directory, version, provenance, facts)


def lineage(
    directory: OutputDirectory, version: int, provenance: Mapping[str, Any], facts: list[str]
) -> Tree:
    """The tree from a version back to its spans, schema, parameters and code.

    Args:
      directory: Where ML Metadata is.
      version: The version.
      provenance: Its provenance record.
      facts: More lines about the version itself, for instance whether its signature is valid.

    Returns:
      The tree. Where ML Metadata is gone, or does not know the version, it says so and holds what
      the provenance record alone knows.
    """
    tree = Tree(Text(f"version {version} of {provenance.get('model_name', 'an unknown model')}"))
    for line in [*facts, *_facts(provenance)]:
        tree.add(Text(line))
    try:
        with open_metadata(directory) as store:
            starts = _pushed(store, version, provenance) or _made_of(store, provenance)
            graph = _Graph(store, starts)
        graph.grow(tree)
    except MetadataGone as gone:
        branch = tree.add(Text(f"{gone}; the provenance alone knows:"))
        for kind, artifact in sorted(provenance.get("artifacts", {}).items()):
            branch.add(Text(f"{kind}: {artifact.get('uri')}"))
    return tree


def _facts(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What the provenance record says of a version, a line each."""
    if not provenance:
        yield "no provenance: this project did not push it"
        return
    yield f"model digest {provenance.get('model_digest')}"
    yield f"made {provenance.get('created')}, run key {provenance.get('run_key')}"
    if mode := provenance.get("compression"):
        yield f"compression: {mode}"
    metrics = provenance.get("metrics", {})
    yield "metrics: " + _join({name: _show(value) for name, value in metrics.items()}, " ")
    spans, rows = provenance.get("spans", {}), provenance.get("rows", {})
    for split, months in spans.items():
        yield f"{split}: {_named(months)} ({rows.get(split, 0):,} rows)"
    yield "libraries: " + _join(provenance.get("libraries", {}), " ")


def _pushed(store: MetadataStore, version: int, provenance: Mapping[str, Any]) -> list[Any]:
    """The artifact of the push of a version, if ML Metadata has it."""
    place = [provenance.get("model_name", ""), str(version)]
    return [
        artifact
        for artifact in store.get_artifacts_by_type("PushedModel")
        if _destination(artifact)[-2:] == place
    ][:1]


def _destination(artifact: Any) -> list[str]:
    place = artifact.custom_properties["pushed_destination"].string_value
    return str(place).rstrip("/").split("/")


def _made_of(store: MetadataStore, provenance: Mapping[str, Any]) -> list[Any]:
    """The artifacts that a provenance record names.

    They are all there is after a run that was killed right after its push, or where metadata was
    lost and begun again.

    Raises:
      MetadataGone: If ML Metadata knows none of them.
    """
    uris = {artifact.get("uri") for artifact in provenance.get("artifacts", {}).values()}
    known = [a for uri in sorted(filter(None, uris)) for a in store.get_artifacts_by_uri(uri)]
    if not known:
        raise MetadataGone("ML Metadata does not know this version")
    return known


class _Graph:
    """What artifacts were made from, as the events of ML Metadata tell it.

    ML Metadata 1.21 answers no lineage queries.
    """

    def __init__(self, store: MetadataStore, starts: list[Any]):
        """Reads all that is upstream of some artifacts.

        Args:
          store: ML Metadata.
          starts: The artifacts.
        """
        from ml_metadata.proto.metadata_store_pb2 import Event

        self._starts = [artifact.id for artifact in starts]
        self._producers: dict[int, int] = {}
        self._inputs: dict[int, list[tuple[str, int]]] = {}
        known: set[int] = set()
        news = set(self._starts)
        while news:
            known |= news
            edges = store.get_events_by_artifact_ids(sorted(news))
            for edge in sorted(edges, key=lambda edge: edge.execution_id):
                # The first one made it; later ones took it from the cache.
                if edge.type == Event.OUTPUT:
                    self._producers.setdefault(edge.artifact_id, edge.execution_id)
            made_by = {self._producers[number] for number in news & self._producers.keys()}
            executions = sorted(made_by - self._inputs.keys())
            self._inputs |= {number: [] for number in executions}
            for edge in store.get_events_by_execution_ids(executions) if executions else ():
                if edge.type == Event.INPUT:
                    key = edge.path.steps[0].key
                    self._inputs[edge.execution_id].append((key, edge.artifact_id))
            news = {number for e in executions for _, number in self._inputs[e]} - known
        artifacts = store.get_artifacts_by_id(sorted(known))
        self._artifacts = {artifact.id: artifact for artifact in artifacts}
        executions = sorted(self._inputs)
        found = store.get_executions_by_id(executions) if executions else ()
        self._executions = {execution.id: execution for execution in found}
        self._kinds = {kind.id: kind.name for kind in store.get_artifact_types()}
        nodes = store.get_execution_types()
        self._nodes = {kind.id: kind.name.rpartition(".")[2] for kind in nodes}
        self._shown: set[int] = set()

    def grow(self, tree: Tree) -> None:
        """Adds the nodes that the artifacts come from, each once, with what each was made from."""
        for start in self._starts:
            kind = self._kinds[self._artifacts[start].type_id]
            if kind == "PushedModel" and start in self._producers:
                self._add_execution(tree, self._producers[start], "", {})
            else:
                self._add_artifact(tree, start, kind)

    def _add_artifact(self, branch: Tree, number: int, key: str) -> None:
        artifact = self._artifacts[number]
        if number not in self._producers:
            branch.add(Text(f"{key}: {artifact.uri}"))
            return
        spans = artifact.custom_properties["spans"].string_value
        self._add_execution(branch, self._producers[number], f"{key} ◄ ", json.loads(spans or "{}"))

    def _add_execution(
        self, branch: Tree, number: int, prefix: str, spans: Mapping[str, list[int]]
    ) -> None:
        execution = self._executions[number]
        name = f"{prefix}{self._nodes[execution.type_id]} #{number}"
        if number in self._shown:
            branch.add(Text(f"{name}, see above", "dim"))
            return
        self._shown.add(number)
        parameters = _parameters(execution)
        code = parameters.pop("code_version", "unknown")
        node = branch.add(Text(f"{name}, code {code}"))
        if parameters:
            node.add(Text(_join(parameters, "="), "dim"))
        for split, months in spans.items():
            node.add(Text(f"{split}: {_named(months)}"))
        # The model first, from which the longest branch grows.
        inputs = sorted(self._inputs[number], key=lambda i: ("model" not in i[0], i))
        for key, artifact in inputs:
            self._add_artifact(node, artifact, key)


def _parameters(execution: Any) -> dict[str, str]:
    """The parameters of a node; those in one JSON object as parameters of their own."""
    parameters: dict[str, str] = {}
    for name, value in sorted(execution.custom_properties.items()):
        if name.startswith("__"):  # TFX's own, such as the types of parameters.
            continue
        content: Any = getattr(value, value.WhichOneof("value"))
        if isinstance(content, str):
            with suppress(ValueError):
                content = json.loads(content)
        if isinstance(content, dict) and not any(isinstance(v, dict) for v in content.values()):
            parameters |= {f"{name}.{key}": _show(v) for key, v in content.items()}
        elif content not in (None, [], ""):
            parameters[name] = _show(content)
    return parameters


def _named(months: Iterable[int]) -> str:
    return ", ".join(f"span-{month}" for month in months)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _join(values: Mapping[str, Any], between: str) -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())
