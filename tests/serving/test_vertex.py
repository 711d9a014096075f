"""Tests of versions on Vertex AI, over HTTP against a server that refuses what Google's does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("google.cloud.aiplatform_v1", reason="the extra `vertex` is not installed")
pytest.importorskip("gcp_storage_emulator", reason="the emulator of the storage is not installed")

from hypothesis import given
from hypothesis import strategies as st

from serving.__main__ import main
from serving.server.settings import REST_PORT
from serving.vertex import documents
from serving.vertex.endpoint import with_share
from storage.names import SIGNATURE_FILE
from tests.cloud.vertex_stub import (
    BUCKET,
    DROP,
    DROP_AFTER,
    LOCATION,
    PARENT,
    PROJECT,
    VertexStub,
)
from tests.serving.conftest import MODEL_FILES, Sealed

MODEL, ENDPOINT = f"{PARENT}/models/flightdeck-toy", f"{PARENT}/endpoints/flightdeck-toy"
IMAGE = f"europe-docker.pkg.dev/my-project/images/flightdeck@sha256:{'0' * 64}"
KEY = f"projects/{PROJECT}/locations/{LOCATION}/keyRings/r/cryptoKeys/k"
OLD, NEW = 1795434497, 1795520897


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexStub]:
    with VertexStub() as running:
        credentials = running.write_credentials(tmp_path / "account.json")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
        monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", LOCATION)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Serving directory with two versions that are signed, and not encrypted, and its keys."""
    root = tmp_path_factory.mktemp("signed")
    sealed = Sealed(root)
    for version in (OLD, NEW):
        sealed.publish(version, encrypt=False)
    return root


@pytest.fixture
def sealed(signed: Path, tmp_path: Path) -> Sealed:
    """A copy of it."""
    return Sealed(Path(shutil.copytree(signed, tmp_path / "sealed")))


class Tool:
    """`python -m serving vertex`, with a Serving directory and the stand-in."""

    def __init__(self, stub: VertexStub, sealed: Sealed) -> None:
        self._common = ["--api-endpoint", stub.url, "--poll-seconds", "0.05", "--timeout", "5"]
        self._serving_dir = sealed.directory.serving_dir
        self._public_key = sealed.public_key
        self.status = 0

    def __call__(self, command: str, *arguments: str) -> str:
        """What a command prints; its exit status is kept."""
        options = ["--model", "toy"]
        if command == "deploy":
            options += ["--bucket", f"gs://{BUCKET}/models", "--public-key", self._public_key]
            arguments = (self._serving_dir, *arguments)
        given = ["vertex", command, *arguments, *options, *self._common]
        result = CliRunner().invoke(main, given)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.status = result.exit_code
        return result.output

    def refused(self, command: str, *arguments: str) -> str:
        """The one line with which a command is refused."""
        output = self(command, *arguments)
        assert self.status == 1, output
        *_, line = output.splitlines()
        assert line.startswith("Error: ")
        assert [one for one in output.splitlines() if "Error" in one] == [line]
        return line


@pytest.fixture
def tool(stub: VertexStub, sealed: Sealed) -> Tool:
    return Tool(stub, sealed)


def split(stub: VertexStub) -> dict[int, int]:
    found = stub.endpoints[ENDPOINT].get("trafficSplit", {})
    return {int(one): percent for one, percent in found.items() if percent}


def versions(stub: VertexStub) -> list[str]:
    return [one["id"] for one in stub.endpoints[ENDPOINT].get("deployedModels", [])]


# Deployment


def test_vertex_deploy_uploads_what_was_signed_and_serves_it(stub: VertexStub, tool: Tool) -> None:
    output = tool("deploy", str(OLD))
    assert tool.status == 0, output
    (model,) = stub.models[MODEL].values()
    folder = model["artifactUri"].removeprefix(f"gs://{BUCKET}/")
    assert stub.objects() == {f"{folder}/{name}": body for name, body in MODEL_FILES.items()}
    assert model["containerSpec"] == {
        "imageUri": "europe-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-15:latest"
    }
    assert model["versionAliases"] == [f"v{OLD}", "default"]
    (deployed,) = stub.endpoints[ENDPOINT]["deployedModels"]
    assert (deployed["id"], deployed["model"]) == (str(OLD), MODEL)
    assert deployed["dedicatedResources"]["machineSpec"] == {"machineType": "n1-standard-2"}
    assert split(stub) == {OLD: 100}
    assert f"{OLD}  100%  n1-standard-2 x 1 to 1  {MODEL}@1" in output


def test_vertex_deploy_gives_a_share_of_the_traffic_and_keeps_the_rest_in_proportion(
    stub: VertexStub, tool: Tool
) -> None:
    tool("deploy", str(OLD))
    tool("deploy", "--traffic", "10")  # the live version
    assert split(stub) == {OLD: 90, NEW: 10}
    assert stub.models[MODEL]["2"]["versionAliases"] == [f"v{NEW}"]


def test_vertex_deploy_that_is_run_again_changes_nothing(stub: VertexStub, tool: Tool) -> None:
    tool("deploy", str(OLD))
    tool("deploy", "--traffic", "10")
    stub.calls.clear()
    before = json.dumps([stub.models, stub.endpoints])
    tool("deploy", "--traffic", "10")
    assert tool.status == 0
    assert json.dumps([stub.models, stub.endpoints]) == before
    assert {one for one in stub.calls if not one.startswith(("get_", "list_"))} == set()


def test_vertex_deploy_of_the_own_image_uploads_the_signature_and_starts_by_verifying(
    stub: VertexStub, tool: Tool, sealed: Sealed
) -> None:
    tool("deploy", str(OLD), "--server", "flightdeck", "--image", IMAGE)
    spec = stub.models[MODEL]["1"]["containerSpec"]
    env = {one["name"]: one["value"] for one in spec["env"]}
    assert env["FLIGHTDECK_PUBLIC_KEYS"] == Path(sealed.public_key).read_text()
    assert spec["predictRoute"] == "/v1/models/toy:predict"
    shell, option, script = spec["command"]
    assert (shell, option) == ("sh", "-c")
    assert script.index("serving mirror") < script.index("exec python -m serving serve")
    assert f"--rest-port {spec['ports'][0]['containerPort']}" in script
    folder = stub.models[MODEL]["1"]["artifactUri"].removeprefix(f"gs://{BUCKET}/")
    assert f"{folder}/toy/.flightdeck/{OLD}/{SIGNATURE_FILE}" in stub.objects()
    assert f"{folder}/toy/{OLD}/saved_model.pb" in stub.objects()
    assert REST_PORT != 8080


def test_vertex_server_script_verifies_the_uploaded_files(
    stub: VertexStub, tool: Tool, tmp_path: Path
) -> None:
    """The script of the container, run here on what is in the bucket, up to the server."""
    tool("deploy", str(OLD), "--server", "flightdeck", "--image", IMAGE)
    model = stub.models[MODEL]["1"]
    folder = model["artifactUri"].removeprefix(f"gs://{BUCKET}/")
    copy = tmp_path / "copy"
    for name, content in stub.objects().items():
        path = copy / os.path.relpath(name, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "python").symlink_to(sys.executable)
    script = model["containerSpec"]["command"][2].replace("/tmp/", f"{tmp_path}/here-")
    script, _, server = script.partition("&& exec ")
    assert server.startswith("python -m serving serve ")
    env = {one["name"]: one["value"] for one in model["containerSpec"]["env"]}
    env |= {"AIP_STORAGE_URI": str(copy), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run() -> int:
        return subprocess.run(["sh", "-c", script], env=env, timeout=60, check=False).returncode

    (copy / "toy" / str(OLD) / "saved_model.pb").write_bytes(b"forged")
    assert run() != 0
    assert not (tmp_path / "here-models" / "toy").exists()
    (copy / "toy" / str(OLD) / "saved_model.pb").write_bytes(MODEL_FILES["saved_model.pb"])
    (tmp_path / "here-keys" / "trusted.pub").unlink()
    (tmp_path / "here-keys").rmdir()
    assert run() == 0
    served = tmp_path / "here-models" / "toy" / str(OLD) / "saved_model.pb"
    assert served.read_bytes() == MODEL_FILES["saved_model.pb"]


def test_vertex_deploy_encrypts_with_a_key_and_keeps_an_endpoint_private(
    stub: VertexStub, tool: Tool
) -> None:
    network = "projects/1/global/networks/vpc"
    tool("deploy", str(OLD), "--kms-key", KEY, "--network", network)
    assert stub.models[MODEL]["1"]["encryptionSpec"] == {"kmsKeyName": KEY}
    assert stub.endpoints[ENDPOINT]["encryptionSpec"] == {"kmsKeyName": KEY}
    assert stub.endpoints[ENDPOINT]["network"] == network
    assert "cannot be changed" in tool.refused("deploy", str(OLD), "--kms-key", KEY)


# What is not deployed


def test_vertex_deploy_refuses_a_version_that_was_changed(
    stub: VertexStub, tool: Tool, sealed: Sealed
) -> None:
    Path(sealed.directory.version_uri(OLD), "saved_model.pb").write_bytes(b"forged")
    assert "saved_model.pb" in tool.refused("deploy", str(OLD))
    assert (stub.models, stub.endpoints, stub.objects()) == ({}, {}, {})


def test_vertex_deploy_decrypts_only_if_told(stub: VertexStub, tool: Tool, sealed: Sealed) -> None:
    sealed.publish(NEW + 1)
    keys = ("--encryption-keys", str(sealed.key_file))
    assert "--decrypted" in tool.refused("deploy", str(NEW + 1), *keys)
    assert stub.objects() == {}
    tool("deploy", str(NEW + 1), *keys, "--decrypted")
    assert tool.status == 0


def test_vertex_deploy_refuses_another_model_of_the_same_number(
    stub: VertexStub, tool: Tool, sealed: Sealed
) -> None:
    tool("deploy", str(OLD))
    stub.models[MODEL]["1"]["versionDescription"] = "flightdeck version 1795434497, sha256 0"
    assert "other files" in tool.refused("deploy", str(OLD))


def test_vertex_leaves_an_endpoint_that_is_not_its_own(stub: VertexStub, tool: Tool) -> None:
    tool("deploy", str(OLD))
    stub.endpoints[ENDPOINT]["labels"] = {}
    for command in (("deploy", str(NEW)), ("teardown",), ("rollback",)):
        assert "was not made for toy" in tool.refused(*command)
    stub.endpoints[ENDPOINT]["labels"] = {"flightdeck-model": "toy"}
    stub.endpoints[ENDPOINT]["deployedModels"].append({"id": "5", "displayName": "somebody's"})
    assert "was not deployed from here" in tool.refused("teardown")
    assert len(versions(stub)) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--project", "My_Project"), "project 'My_Project'"),
        (("--location", "Europe"), "location 'Europe'"),
        (("--bucket", "s3://bucket"), "gs://bucket/folder is expected"),
        (("--bucket", "gs://bucket/a b"), "gs://bucket/folder is expected"),
        (("--server", "flightdeck"), "needs its image"),
        (("--server", "flightdeck", "--image", "flightdeck:latest"), "by digest"),
        (("--min-replicas", "3"), "at least 1"),
        (("--kms-key", KEY.replace(LOCATION, "us-east1")), "not of the region europe-west4"),
        (("--service-account", "me@example.com"), "service account"),
        (("--network", "default"), "network"),
        (("--machine", "big"), "machine"),
        (("--api-endpoint", "http://example.com"), "https://host"),
    ],
)
def test_vertex_deploy_refuses_settings_before_anything_is_sent(
    stub: VertexStub, tool: Tool, options: tuple[str, ...], reason: str
) -> None:
    # The last one of an option counts, and the tool's own come last.
    given = CliRunner().invoke(
        main,
        [
            *("vertex", "deploy", tool._serving_dir, "--model", "toy"),
            *("--public-key", tool._public_key, "--bucket", f"gs://{BUCKET}"),
            *("--api-endpoint", stub.url, *options),
        ],
    )
    assert given.exit_code == 1
    (line,) = given.output.splitlines()
    assert reason in line
    assert stub.calls == []


# Credentials, rights, quotas


def test_vertex_without_credentials_says_how_to_log_in(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    assert "gcloud auth application-default login" in tool.refused("status")
    (tmp_path / "nowhere.json").write_text("{}")
    assert "There are no credentials" in tool.refused("status")


def test_vertex_with_expired_credentials_says_so(stub: VertexStub, tool: Tool) -> None:
    stub.expired = True
    assert "the credentials are expired" in tool.refused("status")
    assert "the credentials are expired" in tool.refused("deploy", str(OLD))


def test_vertex_names_the_project_that_credentials_are_of(
    stub: VertexStub, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = stub.write_credentials(tmp_path / "other.json", "other-project")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(other))
    stub.allowed = {"other-project"}
    line = tool.refused("status")
    assert "the credentials are of the project other-project" in line
    assert "deployer@other-project.iam.gserviceaccount.com" in line


def test_vertex_of_another_region_is_refused_in_one_line(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "us-east1")
    assert "HTTP 400" in tool.refused("status")


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("upload_model", 429),
        ("deploy_model", DROP),
        *(
            (method, DROP_AFTER)
            for method in ("upload_model", "create_endpoint", "deploy_model", "update_endpoint")
        ),
    ],
)
def test_vertex_deploy_goes_on_after_a_quota_or_the_network(
    stub: VertexStub, tool: Tool, method: str, fault: int | str
) -> None:
    tool("deploy", str(OLD))
    first = method == "create_endpoint"
    if first:
        stub.endpoints.clear()
    share = "100" if first else "10"
    stub.faults[method] = [fault]
    output = tool("deploy", "--traffic", share)
    if tool.status:
        *_, line = output.splitlines()
        assert ("quota" if fault == 429 else "again") in line
        tool("deploy", "--traffic", share)
    assert tool.status == 0
    assert split(stub) == ({NEW: 100} if first else {OLD: 90, NEW: 10})
    aliases = [alias for one in stub.models[MODEL].values() for alias in one["versionAliases"]]
    assert sorted(aliases) == ["default", f"v{OLD}", f"v{NEW}"]
    assert len(stub.models[MODEL]) == 2


def test_vertex_deploy_waits_for_an_upload_that_an_earlier_one_began(
    stub: VertexStub, tool: Tool
) -> None:
    stub.looks = 3
    stub.faults = {"upload_model": [DROP_AFTER], "get_operation": [DROP] * 20}
    tool.refused("deploy", str(OLD))
    stub.faults = {}
    tool("deploy", str(OLD))
    assert tool.status == 0
    assert len(stub.models[MODEL]) == 1


def test_vertex_deploy_goes_on_copying_files(stub: VertexStub, tool: Tool) -> None:
    stub.uploads_left = 2
    assert "run the command again" in tool.refused("deploy", str(OLD))
    there = stub.objects()
    assert len(there) == 2
    assert not any(name.endswith("saved_model.pb") for name in there)
    assert stub.models == {}
    stub.uploads_left = 2  # as many as are missing
    tool("deploy", str(OLD))
    assert tool.status == 0
    assert len(stub.objects()) == len(MODEL_FILES)


def test_vertex_deploy_replaces_what_somebody_else_put_into_the_bucket(
    stub: VertexStub, tool: Tool
) -> None:
    tool("deploy", str(OLD))
    before = stub.objects()
    stub.models.clear()
    stub.endpoints.clear()
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    bucket = storage.Client("p", credentials=AnonymousCredentials()).bucket(BUCKET)
    name = next(one for one in before if one.endswith("model.tflite"))
    bucket.blob(name).upload_from_string(b"forged")
    bucket.blob(f"{os.path.dirname(name)}/extra/custom_op.so").upload_from_string(b"code")
    tool("deploy", str(OLD))
    assert stub.objects() == before


def test_vertex_deploy_names_a_bucket_that_it_may_not_write(stub: VertexStub, tool: Tool) -> None:
    stub.read_only = True
    line = tool.refused("deploy", str(OLD))
    assert "roles/storage.objectAdmin" in line
    assert f"gs://{BUCKET}/models" in line
    assert stub.models == {}


def test_vertex_deploy_without_the_library_says_what_to_install(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.startswith("google.cloud.aiplatform_v1")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1", None)
    assert "uv pip install '.[vertex]'" in tool.refused("status")


# Traffic, rollback, teardown


def test_vertex_traffic_is_split_as_told(stub: VertexStub, tool: Tool) -> None:
    tool("deploy", str(OLD))
    tool("deploy", "--traffic", "0")
    assert split(stub) == {OLD: 100}
    tool("traffic", f"{OLD}=30", f"{NEW}=70")
    assert split(stub) == {OLD: 30, NEW: 70}
    assert "already" in tool("traffic", f"{OLD}=30", f"{NEW}=70")


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ((f"{OLD}=90",), "add up to 90%"),
        ((f"{OLD}=90", f"{NEW}=20"), "add up to 110%"),
        ((f"{OLD}=50", "7=50"), "version 7 is not on the endpoint"),
    ],
)
def test_vertex_traffic_refuses_a_split_that_is_none(
    stub: VertexStub, tool: Tool, shares: tuple[str, ...], reason: str
) -> None:
    tool("deploy", str(OLD))
    assert reason in tool.refused("traffic", *shares)
    assert split(stub) == {OLD: 100}


@pytest.mark.parametrize("share", ["7", "7=", "=7", "a=1", "7=-1", "7=1.5", "7=100=1"])
def test_vertex_traffic_refuses_what_is_no_share(tool: Tool, share: str) -> None:
    output = tool("traffic", share)
    assert tool.status == 2
    assert "VERSION=PERCENT is expected" in output


def test_vertex_rollback_gives_the_traffic_to_the_version_before(
    stub: VertexStub, tool: Tool
) -> None:
    tool("deploy", str(OLD))
    tool("deploy")
    assert split(stub) == {NEW: 100}
    assert f"version {OLD} has its traffic" in tool("rollback")
    assert split(stub) == {OLD: 100}
    # Run again for the same version it does not go on to one before.
    assert f"version {NEW} has no traffic" in tool.refused("rollback", str(NEW))
    assert f"no version before {OLD}" in tool.refused("rollback")
    assert split(stub) == {OLD: 100}


def test_vertex_undeploy_keeps_what_has_traffic(stub: VertexStub, tool: Tool) -> None:
    tool("deploy", str(OLD))
    tool("deploy", "--traffic", "10")
    assert "has 10% of the traffic" in tool.refused("undeploy", str(NEW))
    tool("traffic", f"{OLD}=100")
    tool("undeploy", str(NEW), "--delete")
    assert versions(stub) == [str(OLD)]
    assert list(stub.models[MODEL]) == ["1"]
    assert f"Version {NEW} is off the endpoint" in tool("undeploy", str(NEW), "--delete")


def test_vertex_undeploy_deletes_the_default_version_of_the_registry_too(
    stub: VertexStub, tool: Tool
) -> None:
    tool("deploy", str(OLD))
    tool("deploy")
    tool("undeploy", str(OLD), "--delete")
    assert tool.status == 0
    assert stub.models[MODEL]["2"]["versionAliases"] == [f"v{NEW}", "default"]


@pytest.mark.parametrize(
    ("method", "fault"),
    [("undeploy_model", DROP_AFTER), ("delete_endpoint", DROP_AFTER), ("update_endpoint", DROP)],
)
def test_vertex_teardown_goes_on_and_leaves_nothing(
    stub: VertexStub, tool: Tool, method: str, fault: int | str
) -> None:
    tool("deploy", str(OLD))
    tool("deploy", "--traffic", "10")
    stub.faults[method] = [fault]
    output = tool("teardown", "--delete")
    if tool.status:
        assert "again" in output.splitlines()[-1]
        tool("teardown", "--delete")
    assert tool.status == 0
    assert (stub.endpoints, stub.models) == ({}, {})
    tool("teardown", "--delete")
    assert tool.status == 0


# Names and shares


@given(st.text(min_size=1, max_size=63))
def test_vertex_ids_fit_the_api_for_any_model_name(name: str) -> None:
    assert re.fullmatch(r"[a-z_][a-z0-9_-]{0,62}", documents.model_id(name))
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", documents.endpoint_id(name))


@given(st.integers(0, 2**63 - 1))
def test_vertex_deployed_id_fits_the_api_for_any_version(version: int) -> None:
    text = documents.deployed_id(version)
    assert 1 <= len(text) <= 10
    assert text.isdigit()
    assert text != "0"  # which means the one that is being deployed


@given(
    st.dictionaries(st.integers(1, 5), st.integers(1, 100), min_size=1),
    st.integers(0, 100),
)
def test_with_share_adds_up_to_100_and_keeps_proportions(
    weights: dict[int, int], percent: int
) -> None:
    total = sum(weights.values())
    current = {one: 100 * weight // total for one, weight in weights.items()}
    current[min(current)] += 100 - sum(current.values())
    found = with_share(current, 9, percent)
    assert sum(found.values()) == 100
    assert found[9] == percent
    for one, share in current.items():
        assert abs(found.get(one, 0) - share * (100 - percent) / 100) < 1
    again = with_share(found, 9, percent)
    assert again == {one: share for one, share in found.items() if share or one == 9}
