"""The command `manifests`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from serving.commands.options import (
    encryption_keys_option,
    find_directory,
    public_key_option,
    refusals,
    split_versions,
    trust_of,
)
from serving.manifests import TARGETS, VERTEX, Installation, check_needs, write_manifests


@click.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@click.option(
    "--target",
    "targets",
    type=click.Choice([*TARGETS, "all"]),
    multiple=True,
    required=True,
    help="May be given again.",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder."
)
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@click.option("--image", required=True, help="The project's image, by digest.")
@click.option("--google-serving-dir", default="", help="Serving directory, gs://bucket/folder.")
@click.option("--amazon-serving-dir", default="", help="Serving directory, s3://bucket/folder.")
@click.option("--project", default="", help="ID of the project of Google Cloud.")
@click.option("--location", default="", help="Region of Google Cloud.")
@click.option("--service-account", default="", help="Account of Google Cloud that servers are.")
@click.option("--role", default="", help="ARN of the role of AWS that servers have.")
@click.option("--aws-region", default="", help="Region of AWS.")
@public_key_option
@encryption_keys_option
def manifests(
    arguments: tuple[str, ...],
    targets: tuple[str, ...],
    output: Path,
    model: str,
    public_keys: tuple[str, ...],
    encryption_keys: str,
    **names: Any,
) -> None:
    """Writes what serves the model in a cloud: GKE, EKS, Cloud Run, Vertex AI.

    gke and eks are kustomize overlays, cloud-run is a service, vertex has the bodies of the
    requests that `vertex deploy` sends for VERSION, by default the live one, which is verified.
    Nothing is sent anywhere. docs/cloud.md has the next steps of each.

    \b
    Examples:
      python -m serving manifests --target gke --output cloud --model my_model \\
          --image registry.example.com/flightdeck@sha256:... \\
          --google-serving-dir gs://my-bucket/serving_model \\
          --service-account model-server@my-project.iam.gserviceaccount.com
      kubectl apply --namespace my-team --kustomize cloud/gke
      python -m serving manifests --target vertex --output cloud --model my_model \\
          --image registry.example.com/flightdeck@sha256:... \\
          --google-serving-dir gs://my-bucket/models --project my-project --location europe-west4
    """
    from serving.versions import copy_version
    from storage.encryption_keys import load_keys

    serving_dir, versions = split_versions(arguments, at_most=1)
    chosen = TARGETS if "all" in targets else tuple(dict.fromkeys(targets))
    with refusals(), ExitStack() as stack:
        installation = Installation(model, **names)
        for target in chosen:  # Nothing is written unless all can be.
            check_needs(installation, target)
        trust = trust_of(serving_dir, public_keys)
        copy = None
        if VERTEX in chosen:
            directory = find_directory(serving_dir, model)
            version = versions[0] if versions else directory.served()
            if version is None:
                raise LookupError(f"there is no version in {directory.uri}")
            copy = stack.enter_context(
                copy_version(directory, version, trust, load_keys(encryption_keys))
            )
        for target in chosen:
            files = write_manifests(installation, target, output, trust, copy)
            click.echo(f"Wrote {len(files)} files for {target}: {output / target}")
