"""The commands `vertex ...`: a model in Vertex AI's registry and on an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serving.commands.options import (
    encryption_keys_option,
    find_directory,
    model_option,
    public_key_option,
    refusals,
    split_versions,
    trust_of,
)
from serving.vertex import documents
from storage.encryption_keys import load_keys
from storage.errors import UserError

if TYPE_CHECKING:
    from cloud.vertex import Vertex
    from serving.vertex.endpoint import ModelEndpoint
    from serving.vertex.registry import Registry

_Command = TypeVar("_Command", bound=Callable[..., None])
_PERCENT = click.IntRange(0, 100)


def _place_options(command: _Command) -> _Command:
    for option in (
        click.option(
            "--poll-seconds",
            type=click.FloatRange(min=0.05),
            default=5.0,
            show_default=True,
            help="Longest time between two looks while Vertex AI works.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0.1),
            default=60.0,
            show_default=True,
            help="Longest time for a response, in seconds.",
        ),
        click.option("--api-endpoint", default="", help="Address of the API. Default: Google's."),
        click.option("--location", envvar="GOOGLE_CLOUD_LOCATION", required=True, help="Region."),
        click.option(
            "--project", envvar="GOOGLE_CLOUD_PROJECT", required=True, help="ID of the project."
        ),
    ):
        command = option(command)
    return command


@click.group()
def vertex() -> None:
    """Uploads versions to Vertex AI, and serves them on an endpoint.

    Each command may be run again: it goes on where it stopped, and does nothing twice. Credentials
    are Google's application default ones. docs/cloud.md has the roles that they need, and what it
    costs.

    \b
    Examples:
      python -m serving vertex deploy --project my-project --location europe-west4 \\
          --bucket gs://my-bucket/models --traffic 10
      python -m serving vertex traffic 1795434497=100 --model my_model ...
      python -m serving vertex teardown --model my_model ...
    """


@vertex.command()
@click.argument("arguments", nargs=-1, metavar="[SERVING_DIR] [VERSION]")
@model_option
@public_key_option
@encryption_keys_option
@click.option(
    "--decrypted", is_flag=True, help="Upload a version that is encrypted here, decrypted."
)
@click.option("--bucket", required=True, help="Folder for files: gs://bucket/folder.")
@click.option(
    "--traffic",
    type=_PERCENT,
    default=100,
    show_default=True,
    help="Percent of the traffic that it gets; the others share the rest as before.",
)
@click.option(
    "--server",
    "kind",
    type=click.Choice(documents.SERVERS),
    default=documents.PREBUILT,
    show_default=True,
    help="Google's container of TensorFlow Serving, or the project's image.",
)
@click.option("--image", default="", help="The project's image, by digest.")
@click.option("--machine", default="n1-standard-2", show_default=True, help="Type of machine.")
@click.option("--min-replicas", type=int, default=1, show_default=True, help="Fewest machines.")
@click.option("--max-replicas", type=int, default=1, show_default=True, help="Most machines.")
@click.option("--service-account", default="", help="Account that the server runs as.")
@click.option("--network", default="", help="Network that the endpoint is private to.")
@click.option("--kms-key", default="", help="Key of Cloud KMS for model and endpoint.")
@_place_options
def deploy(
    arguments: tuple[str, ...],
    model: str | None,
    public_keys: tuple[str, ...],
    encryption_keys: str,
    decrypted: bool,
    bucket: str,
    traffic: int,
    **options: Any,
) -> None:
    """Verifies a version, uploads it, and puts it on the model's endpoint.

    The default VERSION is the live one. What is uploaded are the files that were verified.
    """
    from cloud.names import check_all
    from serving.versions import copy_version
    from serving.vertex.endpoint import with_share

    serving_dir, chosen = split_versions(arguments, at_most=1)
    with refusals(UserError):
        kms_key, network = options["kms_key"], options["network"]
        check_all(
            bucket=bucket,
            network=network,
            kms_key=kms_key,
            image=options["image"],
            machine=options["machine"],
            service_account=options["service_account"],
        )
        if kms_key and f"/locations/{options['location']}/" not in kms_key:
            raise ValueError(f"the key {kms_key} is not of the region {options['location']}")
        server = documents.Server(
            options["kind"],
            options["image"],
            options["machine"],
            options["min_replicas"],
            options["max_replicas"],
            options["service_account"],
        )
        directory = find_directory(serving_dir, model)
        name = directory.model_name
        version = chosen[0] if chosen else directory.served()
        if version is None:
            raise LookupError(f"there is no version in {directory.uri}")
        trust = trust_of(serving_dir, public_keys)
        spec = documents.container(server, name, options["location"], trust)
        connection = _connect(options)
        endpoint = _endpoint(connection, name, options)
        with copy_version(directory, version, trust, load_keys(encryption_keys)) as copy:
            if copy.encrypted and not decrypted:
                raise ValueError(
                    f"version {version} is encrypted, and Vertex AI gets it decrypted: say "
                    "--decrypted if it may"
                )
            registered = _registry(connection, name, options).upload(
                copy, bucket, spec, whole=server.kind == documents.OURS, key=kms_key
            )
        endpoint.make(network, kms_key)
        endpoint.deploy(version, registered.resource, server)
        shares = {one.version: one.percent for one in endpoint.deployed()}
        # Traffic needs somebody to go to.
        endpoint.split(with_share(shares, version, traffic if len(shares) > 1 else 100))
        _show(endpoint)


@vertex.command()
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@_place_options
def status(model: str, **options: Any) -> None:
    """Shows the versions on the model's endpoint, and their traffic."""
    with refusals(UserError):
        _show(_endpoint(_connect(options), _model_name(model), options))


@vertex.command()
@click.argument("shares", nargs=-1, required=True, metavar="VERSION=PERCENT ...")
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@_place_options
def traffic(shares: tuple[str, ...], model: str, **options: Any) -> None:
    """Splits the traffic among versions on the endpoint; the percentages add up to 100.

    \b
    Example:
      python -m serving vertex traffic 1795434497=90 1795520897=10 --model my_model ...
    """
    wanted: dict[int, int] = {}
    for share in shares:
        version, _, percent = share.partition("=")
        if not (_is_number(version) and _is_number(percent)) or int(version) in wanted:
            raise click.UsageError(f"{share!r}: VERSION=PERCENT is expected, each version once.")
        wanted[int(version)] = int(percent)
    with refusals(UserError):
        endpoint = _endpoint(_connect(options), _model_name(model), options)
        if not endpoint.split(wanted):
            click.echo("The traffic is split so already.")
        _show(endpoint)


@vertex.command()
@click.argument("version", type=click.IntRange(min=0), required=False)
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@_place_options
def rollback(version: int | None, model: str, **options: Any) -> None:
    """Gives the traffic of VERSION to the version before it on the endpoint.

    The default VERSION is the newest that has traffic. It stays deployed.
    """
    with refusals(UserError):
        endpoint = _endpoint(_connect(options), _model_name(model), options)
        old, new = endpoint.rollback(version)
        click.echo(f"Rolled back version {old}: version {new} has its traffic.")
        _show(endpoint)


@vertex.command()
@click.argument("versions", nargs=-1, required=True, type=click.IntRange(min=0))
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@click.option("--delete", is_flag=True, help="Delete them from the registry too.")
@_place_options
def undeploy(versions: tuple[int, ...], model: str, delete: bool, **options: Any) -> None:
    """Takes versions without traffic off the endpoint."""
    with refusals(UserError):
        connection = _connect(options)
        endpoint = _endpoint(connection, _model_name(model), options)
        for version in versions:
            was = endpoint.undeploy(version)
            click.echo(f"Version {version} {'was' if was else 'is'} off the endpoint.")
            if delete and _registry(connection, model, options).delete(version):
                click.echo(f"Version {version} is deleted from the registry.")


@vertex.command()
@click.option("--model", metavar="NAME", required=True, help="Name of the model.")
@click.option("--delete", is_flag=True, help="Delete the model from the registry too.")
@_place_options
def teardown(model: str, delete: bool, **options: Any) -> None:
    """Takes all versions off the endpoint, and deletes it. Files in the bucket stay."""
    with refusals(UserError):
        connection = _connect(options)
        endpoint = _endpoint(connection, _model_name(model), options)
        endpoint.tear_down()
        click.echo(f"There is no endpoint {endpoint.id} any more.")
        if delete:
            _registry(connection, model, options).delete_model()
            click.echo(f"There is no model {model} in the registry any more.")


def _connect(options: Mapping[str, Any]) -> Vertex:
    from cloud.vertex import Place, Vertex

    place = Place(options["project"], options["location"], options["api_endpoint"])
    return Vertex(place, options["timeout"])


def _endpoint(connection: Vertex, model: str, options: Mapping[str, Any]) -> ModelEndpoint:
    from serving.vertex.endpoint import ModelEndpoint

    return ModelEndpoint(connection, model, options["poll_seconds"], click.echo)


def _registry(connection: Vertex, model: str, options: Mapping[str, Any]) -> Registry:
    from serving.vertex.registry import Registry

    return Registry(connection, model, options["poll_seconds"], click.echo)


def _model_name(name: str) -> str:
    from cloud.names import check_all

    if not name:
        raise ValueError("--model is empty")
    check_all(model_name=name)
    return name


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19


def _show(endpoint: ModelEndpoint) -> None:
    found = endpoint.deployed()
    if not found:
        click.echo(f"There is nothing on an endpoint {endpoint.id}.")
    for one in found:
        least, most = one.replicas
        click.echo(
            f"{one.version}  {one.percent:3}%  {one.machine} x {least} to {most}  {one.model}"
        )
    click.echo(endpoint.resource)
