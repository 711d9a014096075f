"""A model's endpoint on Vertex AI: its versions, and how its traffic is split among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.errors import CloudError
from serving.vertex import documents
from serving.vertex.documents import Server
from serving.vertex.model import VertexModel

_SERVICE = "endpoint_service"
_WHOLE = 100


@dataclass(frozen=True)
class Deployed:
    """A version on an endpoint.

    Attributes:
      version: Number of the version.
      percent: Its share of the traffic, 0 to 100.
      model: Its resource in the registry.
      machine: Type of its machines.
      replicas: Fewest and most of them.
    """

    version: int
    percent: int
    model: str
    machine: str
    replicas: tuple[int, int]


class ModelEndpoint(VertexModel):
    """The endpoint of one model; see `VertexModel`."""

    @property
    def id(self) -> str:
        """Its id in the region."""
        return documents.endpoint_id(self._model_name)

    @property
    def resource(self) -> str:
        """Its name: `projects/…/endpoints/…`."""
        return f"{self._vertex.place.parent}/endpoints/{self.id}"

    def deployed(self) -> list[Deployed]:
        """The versions on the endpoint, newest first; none if there is no endpoint.

        Raises:
          CloudError: If it holds what this project did not deploy.
        """
        endpoint = self._find()
        return self._versions(endpoint) if endpoint else []

    def make(self, network: str = "", key: str = "") -> None:
        """Makes the endpoint, unless it is there.

        Raises:
          CloudError: If one is there with another network or key, which cannot be changed.
        """
        what = f"make the endpoint {self.id}"
        endpoint = self._find()
        if endpoint is None:
            # Before there is one, its operations are the region's.
            self._say(f"Making the endpoint {self.id}")
            self._carry_out(
                what,
                "create_endpoint",
                lambda: self._find() is not None,
                409,
                parent=self._vertex.place.parent,
                endpoint=documents.endpoint(self._model_name, network, key),
                endpoint_id=self.id,
            )
            endpoint = self._find()
            if endpoint is None:
                raise CloudError(f"Cannot {what}: it was made, and is not there. Try again.")
        has = endpoint.encryption_spec.kms_key_name if "encryption_spec" in endpoint else ""
        for name, found, wanted in (("network", endpoint.network, network), ("key", has, key)):
            if found != wanted:
                raise CloudError(
                    f"The endpoint {self.id} has the {name} {found or 'none'}, and not "
                    f"{wanted or 'none'}: that cannot be changed; tear it down, or give the same."
                )

    def deploy(self, version: int, model: str, server: Server) -> bool:
        """Puts a version on the endpoint, without traffic unless it is the only one.

        Args:
          version: Number of the version.
          model: Its resource in the registry.
          server: What serves it.

        Returns:
          Whether it was put there now; otherwise it was there.

        Raises:
          CloudError: If it is refused.
        """
        what = f"deploy version {version}"
        # An earlier call may have begun it.
        self._vertex.finish_begun(what, self.resource, self._poll_seconds)
        if self._is_there(version, model):
            return False
        self._say(f"Deploying version {version}: this takes some minutes")
        only = not self.deployed()
        self._carry_out(
            what,
            "deploy_model",
            lambda: self._is_there(version, model),
            endpoint=self.resource,
            deployed_model=documents.deployed_model(self._model_name, version, model, server),
            # "0" is the one being deployed.
            traffic_split={"0": _WHOLE} if only else {},
        )
        return True

    def split(self, wanted: Mapping[int, int]) -> bool:
        """Sets the shares of the traffic.

        Args:
          wanted: Percent of each version; those that are not named get none.

        Returns:
          Whether it was changed.

        Raises:
          ValueError: If they do not add up to 100, or a version is not on the endpoint.
          CloudError: If it is refused, or somebody else changes the endpoint meanwhile.
        """
        total = sum(wanted.values())
        if total != _WHOLE or not all(0 <= percent <= _WHOLE for percent in wanted.values()):
            raise ValueError(f"the shares add up to {total}%: 100 is expected, none below 0")
        endpoint = self._needed()
        there = {one.version for one in self._versions(endpoint)}
        if unknown := sorted(set(wanted) - there):
            raise ValueError(
                f"version {unknown[0]} is not on the endpoint {self.id}, which has "
                f"{_numbers(there)}: deploy it first"
            )
        shares = {
            documents.deployed_id(version): percent
            for version, percent in wanted.items()
            if percent
        }
        if {one: percent for one, percent in endpoint.traffic_split.items() if percent} == shares:
            return False
        self._vertex.change(
            f"split the traffic of {self.id}",
            _SERVICE,
            "update_endpoint",
            # With the etag, a change by somebody else in between is refused, and not undone.
            endpoint={"name": self.resource, "etag": endpoint.etag, "traffic_split": shares},
            update_mask={"paths": ["traffic_split"]},
        )
        return True

    def rollback(self, version: int | None = None) -> tuple[int, int]:
        """Takes the traffic from a version, and gives it to the newest of those before it.

        Args:
          version: The version; None for the newest that has traffic.

        Returns:
          The version, and the one that has its traffic now.

        Raises:
          ValueError: If there is none before it, or it has no traffic.
        """
        found = self._versions(self._needed())
        shares = {one.version: one.percent for one in found if one.percent}
        chosen = max(shares, default=None) if version is None else version
        if chosen is None or chosen not in shares:
            raise ValueError(
                f"version {chosen or ''} has no traffic on the endpoint {self.id}, where "
                f"{_numbers(shares) or 'none'} has: nothing is rolled back"
            )
        before = max((one.version for one in found if one.version < chosen), default=None)
        if before is None:
            raise ValueError(
                f"there is no version before {chosen} on the endpoint {self.id}: deploy one first"
            )
        taken = shares.pop(chosen)
        self.split({**shares, before: shares.get(before, 0) + taken})
        return chosen, before

    def undeploy(self, version: int) -> bool:
        """Takes a version off the endpoint.

        Returns:
          Whether it was there.

        Raises:
          ValueError: If it has traffic, and is not the only one.
        """
        found = {one.version: one for one in self.deployed()}
        if version not in found:
            return False
        if found[version].percent and len(found) > 1:
            raise ValueError(
                f"version {version} has {found[version].percent}% of the traffic: give that to "
                "another version first"
            )
        what = f"undeploy version {version}"
        self._say(f"Undeploying version {version}")
        self._carry_out(
            what,
            "undeploy_model",
            lambda: version not in {one.version for one in self.deployed()},
            404,
            endpoint=self.resource,
            deployed_model_id=documents.deployed_id(version),
        )
        return True

    def tear_down(self) -> None:
        """Takes all versions off the endpoint, and deletes it."""
        what = f"delete the endpoint {self.id}"
        self._vertex.finish_begun(what, self.resource, self._poll_seconds)
        # Those without traffic first; one that has some must be alone, so it gets all of it.
        for one in sorted(self.deployed(), key=lambda each: each.percent):
            left = self.deployed()
            if one.percent and len(left) > 1:
                keeper = max(left, key=lambda each: each.percent)
                self.split({keeper.version: _WHOLE})
            self.undeploy(one.version)
        if self._find() is not None:
            self._say(f"Deleting the endpoint {self.id}")
            self._vertex.run(
                what, _SERVICE, "delete_endpoint", self._poll_seconds, name=self.resource
            )

    def _carry_out(
        self,
        what: str,
        method: str,
        is_done: Callable[[], bool],
        done_before: int | None = None,
        /,
        **request: Any,
    ) -> None:
        """Runs an operation on the endpoint.

        Args:
          what: What it does, after "Cannot".
          method: Name of the method.
          is_done: Looks whether it is done, where the response does not tell.
          done_before: The status that says that it had been done, or begun, before.
          **request: Fields of the request.
        """
        try:
            self._vertex.run(what, _SERVICE, method, self._poll_seconds, **request)
        except CloudError as error:
            if not error.unsure and error.status != done_before:
                raise
            self._vertex.finish_begun(what, self.resource, self._poll_seconds)
            if not is_done():
                raise

    def _find(self) -> Any:
        endpoint = self._vertex.find(
            f"look up the endpoint {self.id}", _SERVICE, "get_endpoint", name=self.resource
        )
        wanted = documents.label(self._model_name)
        if endpoint is not None and endpoint.labels.get(documents.MODEL_LABEL) != wanted:
            raise CloudError(
                f"The endpoint {self.id} was not made for {self._model_name}: it lacks the label "
                f"{documents.MODEL_LABEL}={wanted}; it is left as it is."
            )
        return endpoint

    def _needed(self) -> Any:
        endpoint = self._find()
        if endpoint is None:
            raise ValueError(f"there is no endpoint {self.id}: deploy a version first")
        return endpoint

    def _is_there(self, version: int, model: str) -> bool:
        for one in self.deployed():
            if one.version == version:
                if one.model == model:
                    return True
                raise CloudError(
                    f"Version {version} on the endpoint {self.id} is another model, {one.model}: "
                    "undeploy it first."
                )
        return False

    def _versions(self, endpoint: Any) -> list[Deployed]:
        found = []
        for one in endpoint.deployed_models:
            version = documents.version_of(one.display_name)
            if version is None or documents.deployed_id(version) != one.id:
                raise CloudError(
                    f"The endpoint {self.id} holds {one.display_name or one.id!r}, which was not "
                    "deployed from here: undeploy that first."
                )
            resources = one.dedicated_resources
            found.append(
                Deployed(
                    version,
                    endpoint.traffic_split.get(one.id, 0),
                    f"{one.model.partition('@')[0]}@{one.model_version_id}"
                    if one.model_version_id
                    else one.model,
                    resources.machine_spec.machine_type,
                    (resources.min_replica_count, resources.max_replica_count),
                )
            )
        return sorted(found, key=lambda each: -each.version)


def with_share(current: Mapping[int, int], version: int, percent: int) -> dict[int, int]:
    """Shares in which a version has a percentage, and the others keep their proportions.

    Args:
      current: Percent of each version now.
      version: The version.
      percent: What it is to have, 0 to 100.

    Raises:
      ValueError: If there is nobody to have the rest.

    Examples:
      >>> with_share({1: 100}, 2, 10), with_share({1: 50, 2: 50}, 3, 1)
      ({1: 90, 2: 10}, {1: 50, 2: 49, 3: 1})
    """
    others = {one: share for one, share in current.items() if one != version and share}
    rest, total = _WHOLE - percent, sum(others.values())
    if rest and not total:
        raise ValueError(f"version {version} is the only one with traffic: it has to have 100%")
    shares = {one: rest * share // total for one, share in others.items()}
    by_remainder = sorted(others, key=lambda one: -(rest * others[one] % total))
    for one in by_remainder[: rest - sum(shares.values())]:
        shares[one] += 1
    return {**shares, version: percent}


def _numbers(versions: Any) -> str:
    return ", ".join(map(str, sorted(versions)))
