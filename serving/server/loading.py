"""Loads a version for the server, from a verified private copy."""

from __future__ import annotations

import os
import threading
import weakref

from serving.server.explaining import read_background
from serving.server.form_maker import make_form
from serving.server.logs import log_event
from serving.server.models import LoadedModel, load_model
from serving.server.settings import ServerSettings
from serving.server.warmup import warm_up
from storage.encryption_keys import load_keys
from storage.keys import short_id
from storage.private_copy import private_copy
from storage.versions import ModelVersions


def load_version(
    settings: ServerSettings,
    directory: ModelVersions,
    version: int,
    given_up: threading.Event,
    parent: str | None = None,
) -> LoadedModel:
    """Decrypts, verifies, loads and warms a version.

    Args:
      settings: The settings; `trust` has the trusted keys.
      directory: Where the version is; others may write to it.
      version: Its number.
      given_up: Set when the version is no longer wanted; the load then ends at its next step.
      parent: Folder for the private copy; None for that of temporary files.

    Returns:
      The model.

    Raises:
      Exception: If it cannot be loaded.
    """
    # Read again, so that a server that runs takes what is encrypted with a new key.
    keys = load_keys(settings.encryption_keys)
    copy = private_copy(directory, version, settings.trust, parent=parent, keys=keys)
    try:
        if given_up.is_set():
            raise InterruptedError("the version is no longer wanted")
        folder = copy.directory.version_uri(version)
        model = load_model(
            folder, prefer_tflite=settings.prefer_tflite, concurrency=settings.workers
        )
        if copy.signed:
            model.key_id = copy.signed.key_id
        warmed = warm_up(model, folder, given_up)
        if settings.ui:
            # Of what is encrypted no row is shown.
            model.form = make_form(model, folder, with_example=not copy.encrypted)
        model.background = read_background(copy.directory.provenance_uri(version), model)
    except BaseException:
        copy.close()
        raise
    weakref.finalize(model, copy.close)
    # Variables are read while a graph is loaded; its assets it may read with each request.
    copy.keep(os.path.join(folder, "assets"))
    log_event(
        "loaded",
        model=directory.model_name,
        version=version,
        form=type(model).__name__,
        verified=copy.signed is not None,
        key_id=short_id(copy.signed.key_id) if copy.signed else None,
        signed=copy.signed.time if copy.signed else None,
        encrypted=copy.encrypted,
        warmup_requests=warmed,
        explains=model.background is not None,
    )
    return model
