"""The versions of a model in Vertex AI's Model Registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloud.errors import CloudError
from serving.versions import as_serving_directory
from serving.vertex import documents
from serving.vertex.model import VertexModel
from serving.vertex.staging import Staging, file_digests
from storage.keys import SignatureError
from storage.private_copy import PrivateCopy

_SERVICE = "model_service"


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
      resource: Its name: `projects/…/models/…@1`.
      uploaded: Whether it was uploaded now; otherwise it was there already.
    """

    resource: str
    uploaded: bool


class Registry(VertexModel):
    """Versions of one model in the registry; see `VertexModel`."""

    @property
    def resource(self) -> str:
        """The name of the model: `projects/…/models/…`."""
        return f"{self._vertex.place.parent}/models/{documents.model_id(self._model_name)}"

    def upload(
        self, copy: PrivateCopy, bucket: str, spec: Mapping[str, Any], *, whole: bool, key: str = ""
    ) -> Registered:
        """Uploads a version, or goes on where an earlier call stopped.

        Args:
          copy: The version, a private copy that was verified; its files are what is uploaded.
          bucket: Folder in a bucket for the files, `gs://bucket/folder`.
          spec: The container that serves it, of `documents.container`.
          whole: Whether the container wants the Serving directory with the signature, and not the
            SavedModel alone.
          key: Key of Cloud KMS to encrypt with; "" for Google's own.

        Raises:
          SignatureError: If the copy was not verified.
          CloudError: If Vertex AI refuses, or has another model under that name.
        """
        if copy.signed is None:
            raise SignatureError(f"version {copy.version} was not verified: it is not uploaded")
        version, directory = copy.version, copy.directory
        folder = as_serving_directory(copy) if whole else directory.version_uri(version)
        digest = documents.digest_of(file_digests(folder), spec)
        found = self._find(version, digest)
        if found is None and self._vertex.finish_begun(
            f"upload version {version}", self.resource, self._poll_seconds
        ):
            found = self._find(version, digest)
        if found is not None:
            return Registered(found, uploaded=False)
        uri = documents.artifact_uri(bucket, self._model_name, version, digest)
        staging = Staging(uri, self._vertex.place.project, self._vertex.credentials)
        self._say(f"Copying version {version} to {staging.uri}")
        staging.put(folder)
        document = documents.model(self._model_name, version, staging.uri, spec, digest, key)
        self._say(f"Uploading version {version} to the registry")
        self._create(version, document)
        found = self._find(version, digest)
        if found is None:
            raise CloudError(
                f"Version {version} was uploaded, and is not in the registry: does somebody else "
                "change it? Run the command again."
            )
        return Registered(found, uploaded=True)

    def delete(self, version: int) -> bool:
        """Deletes a version that is not deployed; returns whether there was one."""
        what = f"delete version {version} from the registry"
        found = self._look(version)
        if found is None:
            return False
        versions = list(
            self._vertex.pages(what, _SERVICE, "list_model_versions", "models", name=self.resource)
        )
        if len(versions) == 1:  # The last one goes with its model alone.
            return self.delete_model()
        name = f"{self.resource}@{found.version_id}"
        if "default" in found.version_aliases:
            newest = max(
                int(one.version_id) for one in versions if one.version_id != found.version_id
            )
            self._vertex.change(
                what,
                _SERVICE,
                "merge_version_aliases",
                name=f"{self.resource}@{newest}",
                version_aliases=["default"],
            )
        self._vertex.run(what, _SERVICE, "delete_model_version", self._poll_seconds, name=name)
        return True

    def delete_model(self) -> bool:
        """Deletes the model with all its versions; returns whether there was one."""
        what = f"delete the model {documents.model_id(self._model_name)} from the registry"
        if self._vertex.find(what, _SERVICE, "get_model", name=self.resource) is None:
            return False
        self._vertex.run(what, _SERVICE, "delete_model", self._poll_seconds, name=self.resource)
        return True

    def _create(self, version: int, document: Mapping[str, Any]) -> None:
        what = f"upload version {version} to the registry"
        parent = self._vertex.find(what, _SERVICE, "get_model", name=self.resource)
        place = (
            {"parent_model": self.resource}
            if parent
            else {"model_id": documents.model_id(self._model_name)}
        )
        try:
            operation = self._vertex.begin(
                what,
                _SERVICE,
                "upload_model",
                parent=self._vertex.place.parent,
                model=dict(document),
                **place,
            )
        except CloudError as error:
            begun = error.unsure or error.status == 409
            if begun and self._vertex.finish_begun(what, self.resource, self._poll_seconds):
                return
            raise
        self._vertex.finish(what, operation, self._poll_seconds)

    def _look(self, version: int) -> Any:
        return self._vertex.find(
            f"look up version {version} in the registry",
            _SERVICE,
            "get_model",
            name=f"{self.resource}@{documents.alias(version)}",
        )

    def _find(self, version: int, digest: str) -> str | None:
        """The name of a version in the registry, or None.

        Raises:
          CloudError: If what is there is another model.
        """
        found = self._look(version)
        if found is None:
            return None
        if found.version_description != documents.description(version, digest):
            raise CloudError(
                f"The registry has a version {version} of {self._model_name} with other files or "
                "another image: undeploy it with --delete first, or leave it as it is."
            )
        return f"{self.resource}@{found.version_id}"
