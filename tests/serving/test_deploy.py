"""Tests that the deployment files are valid, and agree with the code and with one another."""

from __future__ import annotations

import http.server
import os
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.config import load_config
from pipeline.model_folders import model_names
from serving.commands.mirror import mirror
from serving.commands.serve import serve
from serving.server.settings import GRPC_PORT, METRICS_PATH, REST_PORT
from storage.encryption_keys import KEYS_VARIABLE
from storage.names import CHALLENGER, CHAMPION
from tests.test_architecture import EXAMPLE

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "serving" / "deploy"
PAGE = PROJECT / "docs" / "deployment.md"
PORTS = {"grpc": GRPC_PORT, "rest": REST_PORT}
# Sidecars, containers that start before the others and run along with them, came with 1.29.
KUBERNETES_VERSIONS = ("1.29", "1.32", "1.37")

# Of tensorflow_serving/model_servers/main.cc, 2.16.1. The server ignores a flag it does not know.
MAIN_CC = """
    allow_version_labels_for_unavailable_models batching_parameters_file enable_batching
    enable_grpc_healthcheck_service enable_model_warmup enable_per_model_batching_parameters
    enable_profiler enable_signature_method_name_check file_system_poll_wait_seconds
    flush_filesystem_caches grpc_channel_arguments grpc_max_threads grpc_socket_path
    load_retry_interval_micros max_num_load_retries mixed_precision model_base_path
    model_config_file model_config_file_poll_wait_seconds model_name monitoring_config_file
    num_load_threads num_request_iterations_for_warmup num_tflite_interpreters_per_pool
    num_tflite_pools num_unload_threads per_process_gpu_memory_fraction platform_config_file
    port prefer_tflite_model remove_unused_fields_from_bundle_metagraph
    rest_api_enable_cors_support rest_api_num_threads rest_api_port rest_api_timeout_in_ms
    saved_model_tags skip_initialize_tpu ssl_config_file tensorflow_inter_op_parallelism
    tensorflow_intra_op_parallelism tensorflow_session_config_file
    tensorflow_session_parallelism thread_pool_factory_config_file use_alts_credentials version
    xla_cpu_compilation_enabled xla_gpu_compilation_enabled
"""
FLAGS = frozenset(MAIN_CC.split())

Document = dict[str, Any]

FILES = {
    path.relative_to(DEPLOY).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DEPLOY.rglob("*"))
    if path.is_file()
}
FOLDERS = ("kubernetes", "embedded")
RESOURCES_OF = {
    folder: [
        path
        for path in FILES
        if re.fullmatch(rf"{folder}/[\w-]+\.yaml", path) and "kustomization" not in path
    ]
    for folder in FOLDERS
}
RESOURCES = [path for paths in RESOURCES_OF.values() for path in paths]


# Reading them


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and rest of the instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        found.append((name, rest))
    return found


def flags(arguments: list[str]) -> dict[str, str]:
    """Flags of the server by name, variables as Kubernetes writes them: `$(NAME)`."""
    found = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        found[name] = re.sub(r"\$(\w+)", r"$(\1)", value.strip('"'))
    return found


def quantity(text: str) -> float:
    """A quantity of Kubernetes: processors, or bytes."""
    number = text.rstrip("mMGi")
    return int(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[text.removeprefix(number)]


def entrypoint_flags() -> dict[str, str]:
    return flags(re.findall(r"^\s+(--\S+)", FILES["entrypoint.sh"], re.MULTILINE))


def older_tensorflow() -> str:
    """Major and minor version of the TensorFlow of the stack that runs with any glibc."""
    requirements = (PROJECT / "requirements" / "tfx-1.16.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^tensorflow==(\d+\.\d+)\.", requirements, re.MULTILINE)
    assert pinned
    return pinned[1]


def document(path: str) -> Any:
    return yaml.safe_load(FILES[path])


def base_tag() -> str:
    """Tag of the server's image, which all files that name one must share."""
    return dict(instructions(FILES["Dockerfile"]))["ARG"].rpartition(":")[2]


def pods() -> dict[str, Document]:
    """The pods of all manifests by file; KServe makes a container of the model."""
    found = {
        f"{folder}/deployment.yaml": document(f"{folder}/deployment.yaml")["spec"]["template"][
            "spec"
        ]
        for folder in FOLDERS
    }
    predictor = dict(document("kserve/inference-service.yaml")["spec"]["predictor"])
    model = predictor.pop("model")
    for name in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"):
        del predictor[name]
    for name in ("modelFormat", "protocolVersion", "runtimeVersion"):
        del model[name]
    container = {"name": "kserve-container", **model}
    return {**found, "kserve/inference-service.yaml": {**predictor, "containers": [container]}}


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def server_of(path: str) -> Document:
    """The container of the server."""
    (container,) = pods()[path]["containers"]
    return dict(container)


def mounts(container: Document) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


def read_only(container: Document) -> set[str]:
    return {mount["name"] for mount in container["volumeMounts"] if mount.get("readOnly")}


# The syntax of each file


def check_resource(resource: Document) -> None:
    for version in KUBERNETES_VERSIONS:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("path", RESOURCES)
def test_manifest_is_valid_for_kubernetes(path: str) -> None:
    check_resource(document(path))


def test_kserve_pod_is_valid_for_kubernetes() -> None:
    pod = pods()["kserve/inference-service.yaml"]
    check_resource({"apiVersion": "v1", "kind": "Pod", "spec": pod})


def test_kserve_explainer_serves_what_it_verifies_from_the_shared_claim() -> None:
    service = document("kserve/inference-service.yaml")["spec"]
    pod = dict(service["explainer"])
    for name in ("minReplicas", "maxReplicas"):
        del pod[name]
    check_resource({"apiVersion": "v1", "kind": "Pod", "spec": pod})
    (container,) = pod["containers"]
    assert container["name"] == "kserve-container"
    # What KServe adds becomes the shell's own arguments, of which it uses none.
    shell, option, line = container["command"]
    assert (shell, option) == ("sh", "-c")
    words = shlex.split(line)
    assert words[:5] == ["exec", "python", "-m", "serving", "serve"]
    arguments = [word.replace("$MODEL_NAME", "taxi") for word in words[5:]]
    given = serve.make_context("serve", arguments).params
    assert given["models"] == ("taxi",)
    assert given["serving_dir"] == mounts(container)["serving-directory"]
    assert given["decrypt_to"] == mounts(container)["decrypted"]
    assert given["rest_port"] == container["ports"][0]["containerPort"] == 8080
    assert not given["no_verify"]
    assert [Path(path).parent for path in given["public_keys"]] == [
        Path(mounts(container)["trusted-keys"])
    ]
    assert {"serving-directory", "trusted-keys"} <= read_only(container)
    (predictor,) = pods()["kserve/inference-service.yaml"]["initContainers"]
    assert container["image"] == predictor["image"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_applies_every_manifest_of_its_folder(folder: str) -> None:
    names = [Path(path).name for path in RESOURCES if path.startswith(folder)]
    assert document(f"{folder}/kustomization.yaml")["resources"] == names
    if kubectl := shutil.which("kubectl"):
        done = subprocess.run(
            [kubectl, "kustomize", str(DEPLOY / folder)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.count("\nkind: ") >= len(names)


def backends(route: Document) -> list[tuple[str, int, int]]:
    """Service, port and weight of what a rule of a route shares the requests among."""
    found = [
        (one["name"], one["port"], one["weight"])
        for rule in route["spec"].get("rules", ())
        for one in rule["backendRefs"]
        if "weight" in one
    ]
    for rule in route["spec"].get("http", ()):
        for one in rule["route"]:
            destination = one["destination"]
            found.append((destination["host"], destination["port"]["number"], one["weight"]))
    return found


@pytest.mark.parametrize(
    "path",
    ["gateway-api/http-route.yaml", "gateway-api/grpc-route.yaml", "istio/virtual-service.yaml"],
)
def test_canary_routes_share_all_requests_among_services_that_are_there(path: str) -> None:
    by_port: dict[int, dict[str, int]] = {}
    for name, port, weight in backends(document(f"canary/{path}")):
        assert by_port.setdefault(port, {}).setdefault(name, weight) == weight
    assert by_port.keys() <= set(PORTS.values())
    service = document("kubernetes/service.yaml")["metadata"]["name"]
    for shares in by_port.values():
        assert shares.keys() == {f"{service}-{role}" for role in (CHAMPION, CHALLENGER)}
        assert sum(shares.values()) == 100


def test_canary_overlays_serve_the_version_of_their_label() -> None:
    check_resource(document("canary/istio/service.yaml"))
    for role in (CHAMPION, CHALLENGER):
        overlay = document(f"canary/{role}/kustomization.yaml")
        assert overlay["nameSuffix"] == f"-{role}"
        (added,) = yaml.safe_load(overlay["patches"][0]["patch"])
        assert added["path"] == "/spec/template/spec/initContainers/0/args/-"
        (first, *_) = document("kubernetes/deployment.yaml")["spec"]["template"]["spec"][
            "initContainers"
        ]
        words = [*first["command"], *first["args"], added["value"]]
        given = mirror.make_context("mirror", words[words.index("mirror") + 1 :]).params
        assert given["label"] == role


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_canary_kustomization_renders_valid_manifests() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "canary")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    resources = list(yaml.safe_load_all(done.stdout))
    for resource in resources:
        kubernetes_validate.validate(resource, KUBERNETES_VERSIONS[-1], strict=True)
    for kind in ("Service", "Deployment"):
        found = {one["metadata"]["name"]: one for one in resources if one["kind"] == kind}
        assert found.keys() == {f"model-server-{role}" for role in (CHAMPION, CHALLENGER)}
    for name, deployment in found.items():
        pod = deployment["spec"]["template"]["spec"]
        assert f"--label={name.removeprefix('model-server-')}" in pod["initContainers"][0]["args"]
        claims = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
        claim = document("kubernetes/storage.yaml")["metadata"]["name"]
        assert {"claimName": claim, "readOnly": True} in claims
    assert "PersistentVolumeClaim" not in {one["kind"] for one in resources}


def test_canary_patch_of_kserve_gives_a_share_to_the_challenger() -> None:
    service = document("kserve/inference-service.yaml")
    place = service["spec"]["predictor"]["initContainers"][0]["args"]
    values = {}
    for change in document("canary/kserve/patch.yaml"):
        *parents, last = [
            word.replace("~1", "/") for word in change["path"].removeprefix("/").split("/")
        ]
        found: Any = service
        for word in parents:
            found = found[int(word)] if isinstance(found, list) else found[word]
        assert (last in found) == (change["op"] == "replace")
        values[last] = change["value"]
    assert 0 < values["canaryTrafficPercent"] < 100
    words = [*place, values["-"]]
    assert mirror.make_context("mirror", words).params["label"] == CHALLENGER


@pytest.mark.parametrize("name", ["entrypoint.sh", "healthcheck.sh"])
def test_deploy_script_is_executable(name: str) -> None:
    assert os.access(DEPLOY / name, os.X_OK)


def test_deploy_files_name_no_model_and_no_word_of_the_example() -> None:
    words = [*model_names(), load_config().model_name]
    said = {path for path, text in FILES.items() if any(word in text for word in words)}
    assert said == set()
    assert [path for path, text in FILES.items() if EXAMPLE.search(text)] == []


# The image


def test_image_runs_the_older_tensorflow_as_an_unprivileged_user() -> None:
    given = instructions(FILES["Dockerfile"])
    single = dict(given)
    assert single["ARG"].rpartition(".")[0] == f"BASE=tensorflow/serving:{older_tensorflow()}"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", single["USER"])
    assert single["EXPOSE"].split() == [str(port) for port in PORTS.values()]
    variables = [rest for name, rest in given if name == "ENV"]
    assert variables == ["PREFER_TFLITE=false"]


def test_image_has_the_files_that_start_its_server() -> None:
    copied: dict[str, str] = {}
    for name, rest in instructions(FILES["Dockerfile"]):
        if name == "COPY":
            _, *sources, target = rest.split()
            copied |= {source: target + os.path.basename(source) for source in sources}
    assert copied.keys() <= FILES.keys()
    given = entrypoint_flags()
    for name in ("monitoring_config_file", "batching_parameters_file"):
        assert given[name] in copied.values()
    single = dict(instructions(FILES["Dockerfile"]))
    assert single["ENTRYPOINT"] == f'["{copied["entrypoint.sh"]}"]'
    assert single["HEALTHCHECK"].endswith(f'CMD ["{copied["healthcheck.sh"]}", "{REST_PORT}"]')


# TensorFlow Serving, wherever it runs


def given_flags() -> dict[str, dict[str, str]]:
    """Flags of TensorFlow Serving by file."""
    manifests = ("kubernetes/deployment.yaml", "kserve/inference-service.yaml")
    return {
        "entrypoint.sh": entrypoint_flags(),
        "compose.yaml": flags(document("compose.yaml")["services"]["model-server"]["command"]),
        **{path: flags(server_of(path)["args"]) for path in manifests},
    }


def test_deploy_files_use_only_flags_of_the_server() -> None:
    for path, given in given_flags().items():
        assert given.keys() <= FLAGS, path


def test_deploy_files_give_the_server_the_same_flags_everywhere() -> None:
    given = given_flags()
    assert (
        given["entrypoint.sh"].items()
        >= {
            "port": str(GRPC_PORT),
            "rest_api_port": str(REST_PORT),
            "model_name": "$(MODEL_NAME)",
            "model_base_path": "/models/$(MODEL_NAME)",
            "prefer_tflite_model": "$(PREFER_TFLITE)",
            "enable_batching": "true",
            "enable_grpc_healthcheck_service": "true",
            "enable_profiler": "false",
        }.items()
    )
    assert given["kubernetes/deployment.yaml"].items() >= given["entrypoint.sh"].items()
    assert (
        given["kserve/inference-service.yaml"].items()
        >= {
            "model_name": "$(MODEL_NAME)",
            "model_base_path": "/mnt/models/$(MODEL_NAME)",
            "enable_profiler": "false",
        }.items()
    )
    tag = base_tag()
    service = document("compose.yaml")["services"]["model-server"]
    assert service["image"] == f"model-server:{tag}"
    assert server_of("kubernetes/deployment.yaml")["image"] == f"tensorflow/serving:{tag}"
    predictor = document("kserve/inference-service.yaml")["spec"]["predictor"]
    assert predictor["model"]["runtimeVersion"] == tag
    assert service["environment"].keys() == {"MODEL_NAME", "PREFER_TFLITE"}
    assert service["environment"]["MODEL_NAME"] == "${MODEL_NAME}"
    said = [
        one for one in document("compose.yaml")["services"]["mirror"]["command"] if "NAME" in one
    ]
    assert [one.partition(":?")[0] for one in said] == ["--model=${MODEL_NAME"]
    generated = document("kubernetes/kustomization.yaml")["configMapGenerator"]
    literals = {one["name"]: one.get("literals", []) for one in generated}
    assert literals["model-server-environment"] == ["PREFER_TFLITE=false"]
    for path, pod in pods().items():
        for container in containers(pod):
            if "$(MODEL_NAME)" in str(container):
                sources = [one["configMapRef"]["name"] for one in container["envFrom"]]
                assert sources[0] == "served-model", path


def test_deploy_files_give_the_server_a_thread_for_each_processor() -> None:
    given = re.search(
        r"^num_batch_threads { value: (\d+) }", FILES["kubernetes/batching.config"], re.MULTILINE
    )
    assert given
    threads = int(given[1])
    service = document("compose.yaml")["services"]["model-server"]
    assert service["cpus"] == threads
    for name in ("tensorflow_session_parallelism", "num_tflite_pools"):
        assert given_flags()["compose.yaml"][name] == str(threads)
        assert given_flags()["kubernetes/deployment.yaml"][name] == "$(CPUS)"
    for path in ("kubernetes/deployment.yaml", "kserve/inference-service.yaml"):
        assert quantity(server_of(path)["resources"]["limits"]["cpu"]) == threads


def test_deployment_mounts_the_configuration_and_annotates_the_metrics() -> None:
    container = server_of("kubernetes/deployment.yaml")
    generated = document("kubernetes/kustomization.yaml")["configMapGenerator"]
    (files,) = (one["files"] for one in generated if one["name"] == "model-server-files")
    present = {f"{mounts(container)['files']}/{file}" for file in files}
    given = flags(container["args"])
    assert {given["monitoring_config_file"], given["batching_parameters_file"]} == present
    prometheus = FILES["kubernetes/monitoring.config"]
    assert "enable: true" in prometheus
    assert f'path: "{METRICS_PATH}"' in prometheus
    template = document("kubernetes/deployment.yaml")["spec"]["template"]
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(REST_PORT),
        "prometheus.io/path": METRICS_PATH,
    }


def test_deployment_ends_a_pod_after_its_connections() -> None:
    deployment = document("kubernetes/deployment.yaml")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    channel = dict(
        argument.split("=")
        for argument in flags(container["args"])["grpc_channel_arguments"].split(",")
    )
    age, grace = (int(channel[f"grpc.max_connection_age{part}_ms"]) for part in ("", "_grace"))
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    # The server jitters the age by a tenth; every node learns in ten seconds that the pod leaves.
    last = (1.1 * age + grace) / 1000
    assert last + 10 <= float(seconds) < pod["terminationGracePeriodSeconds"]


# What is served is what was verified


def test_deployment_mounts_only_what_a_mirror_verified() -> None:
    for path in ("kubernetes/deployment.yaml", "kserve/inference-service.yaml"):
        pod = pods()[path]
        (sidecar,) = pod["initContainers"]
        (server,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (claimed,) = (name for name, one in volumes.items() if "persistentVolumeClaim" in one)
        assert claimed not in mounts(server)
        assert claimed in read_only(sidecar)
        (shared,) = mounts(server).keys() & mounts(sidecar).keys()
        assert volumes[shared]["emptyDir"]["medium"] == "Memory"
        assert shared in read_only(server)
        assert flags(server["args"])["model_base_path"].startswith(mounts(server)[shared] + "/")
        assert sidecar["args"][:2] == [mounts(sidecar)[claimed], mounts(sidecar)[shared]]
        mirror.make_context("mirror", list(sidecar["args"]))
        assert "--model=$(MODEL_NAME)" in sidecar["args"]
        check_keys(mirror, sidecar)
        # It starts before the server, which waits for a version, and goes on.
        assert sidecar["restartPolicy"] == "Always"
        assert f"{mounts(sidecar)[shared]}/" in sidecar["startupProbe"]["exec"]["command"][-1]
        assert "--follow" in sidecar["args"]


def test_compose_mounts_only_what_a_mirror_verified() -> None:
    services = document("compose.yaml")["services"]
    server, sidecar = services["model-server"], services["mirror"]
    (volume,) = server["volumes"]
    assert (volume["type"], volume["target"], volume["read_only"]) == ("volume", "/models", True)
    driver = document("compose.yaml")["volumes"][volume["source"]]["driver_opts"]
    assert driver["type"] == "tmpfs"
    targets = {one["target"]: one.get("read_only", False) for one in sidecar["volumes"]}
    public_key = "/keys/signing.pub"
    assert targets == {"/serving-directory": True, public_key: True, "/models": False}
    assert server["depends_on"] == {"mirror": {"condition": "service_healthy"}}
    assert sidecar["command"][:4] == ["python", "-m", "serving", "mirror"]
    mirror.make_context("mirror", sidecar["command"][4:])
    assert f"--public-key={public_key}" in sidecar["command"]


def check_keys(command: Any, container: Document) -> None:
    """A container runs a command of `serving`, and has the keys that verify and decrypt."""
    assert container["command"] == ["python", "-m", "serving", command.name]
    (key,) = (env for env in container["env"] if env["name"] == KEYS_VARIABLE)
    assert key["valueFrom"]["secretKeyRef"]["name"] == "model-encryption-keys"
    public = f"--public-key={mounts(container)['trusted-keys']}/signing.pub"
    assert public in container["args"]


def test_embedded_deployment_verifies_and_needs_token_and_tls(
    tmp_path: Path,
) -> None:
    container, pod = server_of("embedded/deployment.yaml"), pods()["embedded/deployment.yaml"]
    given = dict(one.split("=") for one in container["args"][1:])
    assert given["--host"] == "0.0.0.0"
    assert "--no-verify" not in container["args"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    found = {path: name for name, path in mounts(container).items()}
    assert "persistentVolumeClaim" in volumes[found[container["args"][0]]]
    assert volumes[found[given["--decrypt-to"]]]["emptyDir"]["medium"] == "Memory"
    # The files that the options name are there in a pod; here they are made.
    arguments = []
    for option, value in given.items():
        if option in ("--token-file", "--tls-certificate", "--tls-key"):
            assert "secret" in volumes[found[os.path.dirname(value)]]
            value = str(tmp_path / os.path.basename(value))
            Path(value).touch(mode=0o600)
        arguments.append(f"{option}={value}")
    serve.make_context("serve", [str(tmp_path), *arguments])
    check_keys(serve, container)


def test_pods_have_no_needless_permission() -> None:
    for path, pod in pods().items():
        assert pod["automountServiceAccountToken"] is False, path
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, path
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, path
        for container in containers(pod):
            for name in ("cpu", "memory"):
                request, limit = (
                    container["resources"][kind][name] for kind in ("requests", "limits")
                )
                assert quantity(request) <= quantity(limit), path
            if container["name"] == "kserve-container":
                continue  # KServe's runtime says the rest.
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, path
    for name, service in document("compose.yaml")["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "mem_limit", "pids_limit"} <= service.keys(), name
    published = document("compose.yaml")["services"]["model-server"]["ports"]
    assert published == [f"127.0.0.1:{port}:{port}" for port in PORTS.values()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_resources_select_the_pods_and_their_ports(folder: str) -> None:
    kinds = {one["kind"]: one for one in map(document, RESOURCES_OF[folder])}
    deployment = kinds["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert kinds["Service"]["spec"]["selector"] == labels
    policy = kinds["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    if "PodDisruptionBudget" in kinds:
        assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (container,) = deployment["template"]["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == PORTS
    assert {
        port["name"]: (port["port"], port["targetPort"])
        for port in kinds["Service"]["spec"]["ports"]
    } == {name: (port, name) for name, port in PORTS.items()}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    scraper = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert [
        (rule["from"], [port["port"] for port in rule["ports"]]) for rule in policy["ingress"]
    ] == [([{"podSelector": {}}], [*PORTS]), ([{"namespaceSelector": scraper}], ["rest"])]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (kind,) = container[probe].keys() & {"grpc", "tcpSocket"}
        assert container[probe][kind]["port"] in (GRPC_PORT, *PORTS)


def test_autoscaler_scales_the_servers_and_all_nodes_can_mount_the_claim() -> None:
    autoscaler = document("kubernetes/autoscaler.yaml")["spec"]
    deployment = document("kubernetes/deployment.yaml")
    assert autoscaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert 2 <= autoscaler["minReplicas"] <= autoscaler["maxReplicas"]
    assert "replicas" not in deployment["spec"]
    claim = document("kubernetes/storage.yaml")
    assert claim["spec"]["accessModes"] in (["ReadWriteMany"], ["ReadOnlyMany"])
    for path, pod in pods().items():
        claims = [
            one["persistentVolumeClaim"] for one in pod["volumes"] if "persistentVolumeClaim" in one
        ]
        assert claims == [{"claimName": claim["metadata"]["name"], "readOnly": True}], path


# The scripts


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a `tensorflow_model_server` that prints its process and its arguments."""
    server = tmp_path / "bin" / "tensorflow_model_server"
    server.parent.mkdir()
    server.write_text('#!/bin/bash\nprintf "%s\\n" "$$" "$@"\n', encoding="utf-8")
    server.chmod(0o755)
    return server.parent


def start(stand_in: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(DEPLOY / "entrypoint.sh"), *arguments],
        env={"PATH": f"{stand_in}:{os.environ['PATH']}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_entrypoint_is_replaced_by_the_server(stand_in: Path) -> None:
    started = start(stand_in, MODEL_NAME="my model", PREFER_TFLITE="true")
    process, *arguments = started.communicate(timeout=60)[0].splitlines()
    assert started.returncode == 0
    assert int(process) == started.pid  # so that it is what the container is stopped by
    assert flags(arguments) == entrypoint_flags() | {
        "model_name": "my model",
        "model_base_path": "/models/my model",
        "prefer_tflite_model": "true",
    }


def test_entrypoint_puts_arguments_last(stand_in: Path) -> None:
    started = start(stand_in, "--a=1 2", "--b", MODEL_NAME="m", PREFER_TFLITE="false")
    assert started.communicate(timeout=60)[0].splitlines()[-2:] == ["--a=1 2", "--b"]


@pytest.mark.parametrize("missing", ["MODEL_NAME", "PREFER_TFLITE"])
def test_entrypoint_names_a_missing_variable_and_starts_no_server(
    stand_in: Path, missing: str
) -> None:
    variables = {"MODEL_NAME": "m", "PREFER_TFLITE": "false"}
    del variables[missing]
    started = start(stand_in, **variables)
    output, error = started.communicate(timeout=60)
    assert (started.returncode, output) == (1, "")
    assert missing in error


def test_entrypoint_refuses_empty_model_name_in_one_line(stand_in: Path) -> None:
    started = start(stand_in, MODEL_NAME="", PREFER_TFLITE="false")
    output, error = started.communicate(timeout=60)
    assert (started.returncode, output) == (1, "")
    (line,) = error.splitlines()
    assert "MODEL_NAME" in line


@contextmanager
def status_server(status: int, body: str) -> Iterator[tuple[int, list[str]]]:
    """A server that gives one response; its port, and the requests it has had."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server.server_port, requests
        finally:
            server.shutdown()
            thread.join()


def is_healthy(port: int) -> bool:
    done = subprocess.run(
        [str(DEPLOY / "healthcheck.sh"), str(port)],
        env={"PATH": os.environ["PATH"], "MODEL_NAME": "my_model"},
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    return done.returncode == 0


def version_status(*states: str) -> str:
    """The response of TensorFlow Serving's REST interface to a request for a model's status."""
    versions = ",\n".join(
        f'  {{\n   "version": "{version}",\n   "state": "{state}",\n   "status": {{\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }'
        for version, state in enumerate(states, 1)
    )
    return f'{{\n "model_version_status": [\n{versions}\n ]\n}}\n'


def test_healthcheck_passes_for_a_served_version() -> None:
    with status_server(200, version_status("END", "AVAILABLE")) as (port, requests):
        assert is_healthy(port)
    assert requests == ["/v1/models/my_model"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, version_status("LOADING")),
        (200, version_status("END")),
        (404, '{ "error": "Could not find any versions of model my_model" }'),
        (500, ""),
    ],
)
def test_healthcheck_fails_without_a_served_version(status: int, body: str) -> None:
    with status_server(status, body) as (port, _):
        assert not is_healthy(port)


def test_healthcheck_fails_where_no_server_listens() -> None:
    with status_server(200, "") as (port, _):
        pass
    assert not is_healthy(port)


# The page


def test_serving_page_names_files_flags_and_ports_that_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"--([a-z]+(?:_[a-z]+)+)", page)) <= FLAGS
    paths = set(re.findall(r"\bserving/deploy/[\w./-]*\w", page))
    assert paths
    assert [path for path in paths if not (PROJECT / path).exists()] == []
    assert set(re.findall(r"(?:serving|server):(\d+\.[\d.]*\d)", page)) == {base_tag()}
    ports = set(re.findall(r":(8\d{3})\b", page))
    assert ports == {str(port) for port in PORTS.values()}
    assert METRICS_PATH in page
