"""Tests that the deployment files are valid, agree with the code and one another, and stay so."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from pipeline.config import Config
from serving.server.settings import GRPC_PORT, METRICS_PATH, REST_PORT
from tests.test_architecture import EXAMPLE

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "serving" / "deploy"
PAGE = PROJECT / "docs" / "deployment.md"
MODEL = Config().model_name
PORTS = {"grpc": GRPC_PORT, "rest": REST_PORT}
KUBERNETES_VERSIONS = ("1.27", "1.32", "1.37")

# How often a file says the model's name; all others never do.
NAMED = {
    "Dockerfile": 1,
    "compose.yaml": 1,
    "kubernetes/kustomization.yaml": 1,
    "kserve/inference-service.yaml": 2,
}

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

Files = Mapping[str, str]
Document = dict[str, Any]


def read_files() -> dict[str, str]:
    """The deployment files by path."""
    return {
        path.relative_to(DEPLOY).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(DEPLOY.rglob("*"))
        if path.is_file()
    }


def problems(files: Files) -> list[str]:
    """What is wrong with the deployment files; how they agree is looked at once each is valid."""
    invalid = [problem for path, text in files.items() for problem in form_problems(path, text)]
    if invalid:
        return invalid
    checks = (check_words, check_image, check_compose, check_kubernetes, check_kserve)
    return [problem for check in checks for problem in check(files)]


# The form of each file


@cache
def form_problems(path: str, text: str) -> list[str]:
    for pattern, check in FORMS.items():
        if re.fullmatch(pattern, path):
            return [f"{path}: {problem}" for problem in check(text)]
    return [f"{path}: there is no check for this file"]


def check_dockerfile_form(text: str) -> Iterator[str]:
    known = {"ARG", "FROM", "ENV", "COPY", "EXPOSE", "USER", "STOPSIGNAL", "HEALTHCHECK"}
    for instruction, _ in instructions(text):
        if instruction not in {*known, "ENTRYPOINT"}:
            yield f"unexpected instruction {instruction}"


def check_script_form(text: str) -> Iterator[str]:
    done = subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        yield done.stderr.strip()


def check_config_form(text: str) -> Iterator[str]:
    try:
        parse_config(text)
    except (ValueError, text_format.ParseError) as error:
        yield str(error)


def check_yaml_form(schema: Document) -> Callable[[str], Iterator[str]]:
    def check(text: str) -> Iterator[str]:
        try:
            document = parse_yaml(text)
        except yaml.YAMLError as error:
            yield str(error)
            return
        validator = jsonschema.Draft202012Validator(schema)
        yield from (error.message for error in validator.iter_errors(document))

    return check


def check_kubernetes_form(text: str) -> Iterator[str]:
    try:
        document = parse_yaml(text)
    except yaml.YAMLError as error:
        yield str(error)
        return
    yield from check_resource(document)


def check_resource(document: Document) -> Iterator[str]:
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.absolute_path)
            yield f"Kubernetes {version}: {where}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield error.message


def check_kserve_form(text: str) -> Iterator[str]:
    """KServe's own fields by a schema, those that are a pod's by the schema of one."""
    invalid = list(check_yaml_form(INFERENCE_SERVICE)(text))
    if invalid:
        yield from invalid
        return
    predictor = parse_yaml(text)["spec"]["predictor"]
    pod = {key: value for key, value in predictor.items() if key not in KSERVE_PREDICTOR}
    container = {key: value for key, value in predictor["model"].items() if key not in KSERVE_MODEL}
    pod["containers"] = [{"name": "kserve-container", **container}]
    yield from check_resource({"apiVersion": "v1", "kind": "Pod", "spec": pod})


def closed(properties: Document, required: tuple[str, ...] = ()) -> Document:
    """The schema of an object that has these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def array(items: Document) -> Document:
    return {"type": "array", "items": items, "minItems": 1}


STRING = {"type": "string"}
TRUE_OR_FALSE = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
STRINGS = array(STRING)
STRING_VALUES = {"type": "object", "additionalProperties": STRING}
METADATA = closed({"name": STRING, "annotations": STRING_VALUES}, ("name",))

# Of the compose specification, what compose.yaml uses.
COMPOSE_SERVICE = closed(
    {
        "build": closed({"context": STRING}, ("context",)),
        "image": STRING,
        "environment": STRING_VALUES,
        "command": STRINGS,
        "cpus": {"type": "number"},
        "mem_limit": {"type": "string", "pattern": r"^\d+[kmg]$"},
        "pids_limit": COUNT,
        "ports": array({"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}),
        "volumes": array(
            closed(
                {
                    "type": {"const": "bind"},
                    "source": STRING,
                    "target": STRING,
                    "read_only": TRUE_OR_FALSE,
                    "bind": closed({"create_host_path": TRUE_OR_FALSE}),
                },
                ("type", "source", "target"),
            )
        ),
        "read_only": TRUE_OR_FALSE,
        "tmpfs": STRINGS,
        "cap_drop": STRINGS,
        "security_opt": STRINGS,
        "healthcheck": closed(
            {
                "test": STRINGS,
                "interval": STRING,
                "timeout": STRING,
                "start_period": STRING,
                "retries": COUNT,
            },
            ("test",),
        ),
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
    },
    ("image", "environment", "command", "cpus", "mem_limit", "pids_limit", "ports", "volumes"),
)
COMPOSE = closed(
    {"name": STRING, "services": closed({"model-server": COMPOSE_SERVICE}, ("model-server",))},
    ("services",),
)

KUSTOMIZATION = closed(
    {
        "apiVersion": {"const": "kustomize.config.k8s.io/v1beta1"},
        "kind": {"const": "Kustomization"},
        "resources": STRINGS,
        "configMapGenerator": array(
            closed(
                {"name": STRING, "literals": array({"type": "string", "pattern": "^[A-Z_]+="})}
                | {"files": STRINGS},
                ("name",),
            )
        ),
    },
    ("apiVersion", "kind", "resources", "configMapGenerator"),
)

# Of KServe's v1beta1 API: the fields that a predictor and its model have besides those of a pod and
# a container (ComponentExtensionSpec, ModelSpec, PredictorExtensionSpec), as far as they are used.
KSERVE_PREDICTOR = {
    "minReplicas": COUNT,
    "maxReplicas": COUNT,
    "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
    "scaleTarget": COUNT,
    "model": {},
}
KSERVE_MODEL = {
    "modelFormat": closed({"name": {"const": "tensorflow"}, "version": STRING}, ("name",)),
    "protocolVersion": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
    "runtimeVersion": STRING,
    "storageUri": {"type": "string", "pattern": "^(pvc|s3|gs)://[a-z0-9]"},
}
INFERENCE_SERVICE = closed(
    {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {
            **METADATA,
            "properties": {
                **METADATA["properties"],
                "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
            },
        },
        "spec": closed(
            {
                "predictor": {
                    "type": "object",
                    "properties": {
                        **KSERVE_PREDICTOR,
                        "model": {
                            "type": "object",
                            "properties": KSERVE_MODEL,
                            "required": [*KSERVE_MODEL, "args", "resources"],
                        },
                    },
                    "required": ["model"],
                }
            },
            ("predictor",),
        ),
    },
    ("apiVersion", "kind", "metadata", "spec"),
)

FORMS: dict[str, Callable[[str], Iterator[str]]] = {
    r"Dockerfile": check_dockerfile_form,
    r"\w+\.sh": check_script_form,
    r"compose\.yaml": check_yaml_form(COMPOSE),
    r"kubernetes/\w+\.config": check_config_form,
    r"kubernetes/kustomization\.yaml": check_yaml_form(KUSTOMIZATION),
    r"kubernetes/[\w-]+\.yaml": check_kubernetes_form,
    r"kserve/[\w-]+\.yaml": check_kserve_form,
}


# Reading them


class OneOfEachKey(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Document:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(
                None, None, f"a key is there twice among {keys}", node.start_mark
            )
        return super().construct_mapping(node, deep)


@cache
def parse_yaml(text: str) -> Any:
    return yaml.load(text, OneOfEachKey)


@cache
def config_messages() -> dict[str, type[Message]]:
    """TensorFlow Serving's configuration messages by name.

    Its Python package brings one of them. The others are written from monitoring_config.proto,
    ssl_config.proto and session_bundle_config.proto, 2.16.1.
    """
    number, yes_or_no = ".google.protobuf.Int64Value", ".google.protobuf.BoolValue"
    kinds: dict[str, dict[str, str]] = {
        "PrometheusConfig": {"enable": "bool", "path": "string"},
        "MonitoringConfig": {"prometheus_config": ".tensorflow.serving.PrometheusConfig"},
        "SSLConfig": {
            **dict.fromkeys(("server_key", "server_cert", "custom_ca"), "string"),
            "client_verify": "bool",
        },
        "BatchingParameters": {
            **dict.fromkeys(("max_batch_size", "batch_timeout_micros"), number),
            **dict.fromkeys(("max_enqueued_batches", "num_batch_threads"), number),
            "max_execution_batch_size": number,
            "enable_large_batch_splitting": yes_or_no,
            "pad_variable_length_inputs": "bool",
        },
    }
    Field = descriptor_pb2.FieldDescriptorProto
    scalars = {"bool": Field.TYPE_BOOL, "string": Field.TYPE_STRING}
    file = descriptor_pb2.FileDescriptorProto(
        name="config.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for message, fields in kinds.items():
        described = file.message_type.add(name=message)
        for index, (name, kind) in enumerate(fields.items(), 1):
            described.field.add(
                name=name,
                number=index,
                label=Field.LABEL_OPTIONAL,
                type=scalars.get(kind, Field.TYPE_MESSAGE),
                type_name=None if kind in scalars else kind,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    names = {f"tensorflow.serving.{message}" for message in kinds}
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    } | {"tensorflow.serving.ModelServerConfig": model_server_config_pb2.ModelServerConfig}


def parse_config(text: str) -> Any:
    """A configuration file of TensorFlow Serving, whose first line names its message."""
    named = re.match(r"# proto-message: (\S+)\n", text)
    known = config_messages()
    if not named or named[1] not in known:
        raise ValueError(f"the first line names none of the messages {', '.join(sorted(known))}")
    return text_format.Parse(text, known[named[1]]())


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and rest of the instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        found.append((name, rest))
    return found


def flags(arguments: list[str]) -> dict[str, str]:
    """Flags of the server by name, variables in Kubernetes' form: `$(NAME)`."""
    found = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        found[name] = re.sub(r"\$(\w+)", r"$(\1)", value.strip('"'))
    return found


def entrypoint_flags(files: Files) -> dict[str, str]:
    return flags(re.findall(r"^\s+(--\S+)", files["entrypoint.sh"], re.MULTILINE))


def quantity(text: str) -> float:
    """A quantity of Kubernetes: processors, or bytes."""
    number = text.rstrip("mMGi")
    return int(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[text.removeprefix(number)]


def default_tensorflow() -> str:
    """Major and minor version of the default stack's TensorFlow."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    stack = re.search(r"^STACK \?= (\S+)$", makefile, re.MULTILINE)
    assert stack
    requirements = (PROJECT / "requirements" / f"{stack[1]}.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^tensorflow==(\d+\.\d+)\.", requirements, re.MULTILINE)
    assert pinned
    return pinned[1]


# What has to agree


def same(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"{what} is {found!r}, expected {expected!r}"


def contains(what: str, found: Any, expected: Mapping[str, Any]) -> Iterator[str]:
    """What of `expected`, at any depth, is not so in `found`."""
    for key, value in expected.items():
        inner = (found or {}).get(key)
        if isinstance(value, Mapping):
            yield from contains(f"{what}.{key}", inner, value)
        else:
            yield from same(f"{what}.{key}", inner, value)


def known_flags(what: str, given: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{what}: the server has no flag --{name}" for name in given.keys() - FLAGS)


def check_words(files: Files) -> Iterator[str]:
    for path, text in files.items():
        yield from same(f"{path}: how often it says {MODEL}", text.count(MODEL), NAMED.get(path, 0))
        if found := EXAMPLE.search(text.replace(MODEL, "")):
            yield f"{path}: the word {found[0]!r} belongs to the example"


def base_tag(files: Files) -> str:
    """Tag of the server's image, which all files that name one must share."""
    base = dict(instructions(files["Dockerfile"]))["ARG"]
    return base.rpartition(":")[2]


def check_image(files: Files) -> Iterator[str]:
    given = instructions(files["Dockerfile"])
    single = dict(given)
    yield from same("Dockerfile: FROM", single["FROM"], "${BASE}")
    yield from same(
        "Dockerfile: BASE",
        single["ARG"].rpartition(".")[0],
        f"BASE=tensorflow/serving:{default_tensorflow()}",
    )
    variables = [rest for name, rest in given if name == "ENV"]
    yield from same("Dockerfile: ENV", variables, [f"MODEL_NAME={MODEL}", "PREFER_TFLITE=false"])
    yield from same("Dockerfile: EXPOSE", single["EXPOSE"], f"{GRPC_PORT} {REST_PORT}")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", single["USER"]):
        yield f"Dockerfile: USER {single['USER']} is not a number above 0, and a group's"
    copied: dict[str, str] = {}
    for name, rest in given:
        if name == "COPY":
            _, *sources, target = rest.split()
            copied |= {source: target + os.path.basename(source) for source in sources}
    yield from (f"Dockerfile: there is no {path}" for path in copied.keys() - files.keys())
    flags_given = entrypoint_flags(files)
    yield from known_flags("entrypoint.sh", flags_given)
    yield from contains("entrypoint.sh", flags_given, server_flags())
    for name in ("monitoring_config_file", "batching_parameters_file"):
        if flags_given.get(name) not in copied.values():
            yield f"entrypoint.sh: --{name} is not a file that the Dockerfile copies"
    command = re.search(r'CMD \["(.*)", "(.*)"\]', single["HEALTHCHECK"])
    yield from same(
        "Dockerfile: HEALTHCHECK",
        command and command.groups(),
        (copied["healthcheck.sh"], str(REST_PORT)),
    )
    yield from same(
        "Dockerfile: ENTRYPOINT", single["ENTRYPOINT"], f'["{copied["entrypoint.sh"]}"]'
    )


def server_flags() -> dict[str, str]:
    """What the server has to be told wherever it runs."""
    return {
        "port": str(GRPC_PORT),
        "rest_api_port": str(REST_PORT),
        "model_name": "$(MODEL_NAME)",
        "model_base_path": "/models/$(MODEL_NAME)",
        "prefer_tflite_model": "$(PREFER_TFLITE)",
        "enable_batching": "true",
        "enable_grpc_healthcheck_service": "true",
        "enable_profiler": "false",
    }


def check_compose(files: Files) -> Iterator[str]:
    service = parse_yaml(files["compose.yaml"])["services"]["model-server"]
    yield from contains(
        "compose.yaml",
        service,
        {
            "image": f"model-server:{base_tag(files)}",
            "environment": {"MODEL_NAME": MODEL, "PREFER_TFLITE": "false"},
            "ports": [f"127.0.0.1:{port}:{port}" for port in PORTS.values()],
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "healthcheck": {"test": ["CMD", "/usr/local/bin/healthcheck.sh", str(REST_PORT)]},
        },
    )
    (volume,) = service["volumes"]
    yield from contains("compose.yaml: volume", volume, {"target": "/models", "read_only": True})
    given = flags(service["command"])
    yield from known_flags("compose.yaml", given)
    for name in ("tensorflow_session_parallelism", "num_tflite_pools"):
        yield from same(f"compose.yaml: --{name}", given.get(name), str(service["cpus"]))
    yield from same("compose.yaml: cpus", service["cpus"], batch_threads(files))


def batch_threads(files: Files) -> int:
    return int(parse_config(files["kubernetes/batching.config"]).num_batch_threads.value)


def check_kubernetes(files: Files) -> Iterator[str]:
    kinds = {}
    for path, text in files.items():
        if path.startswith("kubernetes/") and path.endswith(".yaml"):
            document = parse_yaml(text)
            kinds[document["kind"]] = document
    pod = kinds["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    yield from check_kustomization(files, kinds["Kustomization"], container, pod["spec"])
    yield from check_selectors(kinds)
    yield from check_ports(kinds, container)
    yield from check_hardening(pod["spec"], container)
    yield from check_server(files, pod, container)
    yield from check_storage(kinds, pod["spec"], container)
    yield from check_roll_out(kinds["Deployment"]["spec"], pod["spec"], container)
    autoscaler = kinds["HorizontalPodAutoscaler"]["spec"]
    yield from contains(
        "autoscaler.yaml",
        autoscaler["scaleTargetRef"],
        {
            "apiVersion": kinds["Deployment"]["apiVersion"],
            "kind": "Deployment",
            "name": kinds["Deployment"]["metadata"]["name"],
        },
    )
    if not 2 <= autoscaler["minReplicas"] <= autoscaler["maxReplicas"]:
        yield "autoscaler.yaml: minReplicas is not between 2 and maxReplicas"
    if "replicas" in kinds["Deployment"]["spec"]:
        yield "deployment.yaml: replicas is for the autoscaler to say"


def check_kustomization(
    files: Files, kustomization: Document, container: Document, pod: Document
) -> Iterator[str]:
    resources = sorted(
        path.removeprefix("kubernetes/")
        for path in files
        if re.fullmatch(r"kubernetes/[\w-]+\.yaml", path) and "kustomization" not in path
    )
    yield from same("kustomization.yaml: resources", kustomization["resources"], resources)
    generated = {one["name"]: one for one in kustomization["configMapGenerator"]}
    environment = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
    variables = [
        literal for name in environment for literal in generated.get(name, {}).get("literals", [])
    ]
    yield from same(
        "deployment.yaml: environment", variables, [f"MODEL_NAME={MODEL}", "PREFER_TFLITE=false"]
    )
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    present = {
        f"{mounted[volume['name']]}/{file}"
        for volume in pod["volumes"]
        if "configMap" in volume
        for file in generated.get(volume["configMap"]["name"], {}).get("files", [])
        if f"kubernetes/{file}" in files
    }
    given = flags(container["args"])
    for name in ("monitoring_config_file", "batching_parameters_file"):
        if given.get(name) not in present:
            yield f"deployment.yaml: --{name} is not among {sorted(present)}"


def check_selectors(kinds: Mapping[str, Document]) -> Iterator[str]:
    """Everything that is about the pods selects them."""
    deployment = kinds["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = {
        "deployment.yaml: selector": deployment["selector"]["matchLabels"],
        "service.yaml: selector": kinds["Service"]["spec"]["selector"],
        "disruption-budget.yaml: selector": kinds["PodDisruptionBudget"]["spec"]["selector"][
            "matchLabels"
        ],
        "network-policy.yaml: podSelector": kinds["NetworkPolicy"]["spec"]["podSelector"].get(
            "matchLabels"
        ),
    }
    for spread in deployment["template"]["spec"]["topologySpreadConstraints"]:
        where = f"deployment.yaml: spread over {spread['topologyKey']}"
        selectors[where] = spread["labelSelector"]["matchLabels"]
    for what, selector in selectors.items():
        yield from same(what, selector, labels)


def check_ports(kinds: Mapping[str, Document], container: Document) -> Iterator[str]:
    ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
    yield from same("deployment.yaml: ports", ports, PORTS)
    service = {
        port["name"]: (port["port"], port["targetPort"])
        for port in kinds["Service"]["spec"]["ports"]
    }
    yield from same(
        "service.yaml: ports", service, {name: (port, name) for name, port in PORTS.items()}
    )
    policy = kinds["NetworkPolicy"]["spec"]
    yield from same(
        "network-policy.yaml: policyTypes", policy["policyTypes"], ["Ingress", "Egress"]
    )
    yield from same("network-policy.yaml: egress", policy.get("egress", []), [])
    allowed = [
        (rule.get("from"), [port["port"] for port in rule.get("ports", [])])
        for rule in policy["ingress"]
    ]
    scraper = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    yield from same(
        "network-policy.yaml: ingress",
        allowed,
        [([{"podSelector": {}}], [*PORTS]), ([{"namespaceSelector": scraper}], ["rest"])],
    )
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield from same(
            f"deployment.yaml: {probe}", container.get(probe, {}).get("grpc"), {"port": GRPC_PORT}
        )


def check_hardening(pod: Document, container: Document) -> Iterator[str]:
    yield from contains(
        "deployment.yaml",
        pod,
        {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    )
    yield from contains(
        "deployment.yaml: container",
        container,
        {
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        },
    )
    yield from check_resources("deployment.yaml", container)


def check_resources(what: str, container: Document) -> Iterator[str]:
    resources = container.get("resources", {})
    for name in ("cpu", "memory"):
        request, limit = (resources.get(kind, {}).get(name) for kind in ("requests", "limits"))
        if not request or not limit or quantity(request) > quantity(limit):
            yield f"{what}: {name} of {request} is requested, limited to {limit}"


def check_server(files: Files, pod: Document, container: Document) -> Iterator[str]:
    """A pod starts the server as a container does, and says where its metrics are."""
    tag = base_tag(files)
    yield from same("deployment.yaml: image", container["image"], f"tensorflow/serving:{tag}")
    given = flags(container["args"])
    yield from known_flags("deployment.yaml", given)
    yield from contains("deployment.yaml", given, entrypoint_flags(files))
    for name in ("tensorflow_session_parallelism", "num_tflite_pools"):
        yield from same(f"deployment.yaml: --{name}", given.get(name), "$(CPUS)")
    cpus = {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
    yield from same("deployment.yaml: env", container.get("env"), [cpus])
    yield from same(
        "deployment.yaml: limits.cpu",
        quantity(container["resources"]["limits"]["cpu"]),
        batch_threads(files),
    )
    yield from contains(
        "deployment.yaml: annotations",
        pod["metadata"].get("annotations"),
        {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(REST_PORT),
            "prometheus.io/path": METRICS_PATH,
        },
    )
    prometheus = parse_config(files["kubernetes/monitoring.config"]).prometheus_config
    yield from same("monitoring.config: enable", prometheus.enable, True)
    yield from same("monitoring.config: path", prometheus.path, METRICS_PATH)


def check_storage(
    kinds: Mapping[str, Document], pod: Document, container: Document
) -> Iterator[str]:
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    claim = {"claimName": kinds["PersistentVolumeClaim"]["metadata"]["name"], "readOnly": True}
    yield from same("deployment.yaml: claims", [*claims.values()], [claim])
    mounts = [
        (mount["mountPath"], mount.get("readOnly"))
        for mount in container["volumeMounts"]
        if mount["name"] in claims
    ]
    yield from same("deployment.yaml: mounts of the claim", mounts, [("/models", True)])
    modes = kinds["PersistentVolumeClaim"]["spec"]["accessModes"]
    if modes not in (["ReadWriteMany"], ["ReadOnlyMany"]):
        yield f"storage.yaml: accessModes are {modes}: servers on several nodes could not mount it"


def check_roll_out(deployment: Document, pod: Document, container: Document) -> Iterator[str]:
    """A pod is ended after its connections for gRPC are, so that no request is lost."""
    yield from contains(
        "deployment.yaml", deployment, {"strategy": {"rollingUpdate": {"maxUnavailable": 0}}}
    )
    channel = dict(
        argument.split("=")
        for argument in flags(container["args"]).get("grpc_channel_arguments", "").split(",")
        if argument
    )
    connection = sum(
        float(channel.get(f"grpc.max_connection_{name}_ms", "inf")) * jitter / 1000
        for name, jitter in (("age", 1.1), ("age_grace", 1.0))
    )
    hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    pause = float(hook[1]) if hook[:1] == ["sleep"] else 0.0
    # Ten seconds for every node to learn that the pod is leaving.
    if not connection + 10 <= pause < pod.get("terminationGracePeriodSeconds", 30):
        yield (
            f"deployment.yaml: preStop takes {pause} s; a connection may last {connection:.0f} s"
            f" and the pod {pod.get('terminationGracePeriodSeconds', 30)} s"
        )


def check_kserve(files: Files) -> Iterator[str]:
    predictor = parse_yaml(files["kserve/inference-service.yaml"])["spec"]["predictor"]
    model = predictor["model"]
    claim = parse_yaml(files["kubernetes/storage.yaml"])["metadata"]["name"]
    yield from contains(
        "inference-service.yaml",
        model,
        {"runtimeVersion": base_tag(files), "storageUri": f"pvc://{claim}"},
    )
    given = flags(model["args"])
    yield from known_flags("inference-service.yaml", given)
    yield from contains(
        "inference-service.yaml",
        given,
        {
            "model_name": MODEL,
            "model_base_path": f"/mnt/models/{MODEL}",
            "enable_profiler": "false",
            "tensorflow_session_parallelism": model["resources"]["limits"]["cpu"],
        },
    )
    yield from check_resources("inference-service.yaml", model)
    yield from contains(
        "inference-service.yaml",
        predictor,
        {
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    )


# The files as they are


def test_the_deployment_files_are_valid_and_agree() -> None:
    assert problems(read_files()) == []


@pytest.mark.parametrize("name", ["entrypoint.sh", "healthcheck.sh"])
def test_a_script_may_be_executed(name: str) -> None:
    assert os.access(DEPLOY / name, os.X_OK)


# A slip in one of them: file, what is changed, into what, and the problem that has to be found

KUSTOMIZE = "kubernetes/kustomization.yaml"
DEPLOYMENT = "kubernetes/deployment.yaml"
POLICY = "kubernetes/network-policy.yaml"
AUTOSCALER = "kubernetes/autoscaler.yaml"
SERVICE = "kubernetes/service.yaml"
STORAGE = "kubernetes/storage.yaml"
KSERVE = "kserve/inference-service.yaml"
SLIPS = [
    ("Dockerfile", "USER 65532:65532", "USER root", "USER root is not a number"),
    ("Dockerfile", "USER 65532:65532", "USER 0:0", "USER 0:0 is not a number"),
    ("Dockerfile", "serving:2.16.1\nFROM", "serving:latest\nFROM", "BASE is"),
    ("Dockerfile", "serving:2.16.1\nFROM", "serving:2.15.1\nFROM", "BASE is"),
    ("Dockerfile", "FROM ${BASE}", "FROM tensorflow/serving", "FROM is"),
    ("Dockerfile", "EXPOSE 8500 8501", "EXPOSE 8500", "EXPOSE is"),
    ("Dockerfile", '"8501"]', '"8500"]', "HEALTHCHECK is"),
    ("Dockerfile", "MODEL_NAME=", "MODEL_NAME=my_", "ENV is"),
    ("Dockerfile", "batching.config", "batch.config", "there is no kubernetes/batch.config"),
    ("Dockerfile", "STOPSIGNAL", "STOPSIGNALS", "unexpected instruction STOPSIGNALS"),
    ("Dockerfile", "EXPOSE", "ADD model /models\nEXPOSE", "unexpected instruction ADD"),
    ("Dockerfile", "/entrypoint.sh", "/server.sh", "ENTRYPOINT is"),
    ("entrypoint.sh", "service=true", "service=false", "healthcheck_service is 'false'"),
    ("entrypoint.sh", "--rest_api_port=8501", "--rest_api_port=8080", "rest_api_port is '8080'"),
    ("entrypoint.sh", "--enable_batching", "--enable_batchign", "no flag --enable_batchign"),
    ("entrypoint.sh", "monitoring.config", "monitor.config", "--monitoring_config_file is not"),
    ("entrypoint.sh", "/models/$", "/srv/$", "model_base_path is '/srv/"),
    ("entrypoint.sh", "exec tensorflow", "exec (tensorflow", "syntax error"),
    ("compose.yaml", "127.0.0.1:8500:8500", "8500:8500", "does not match"),
    ("compose.yaml", "127.0.0.1:8501:8501", "127.0.0.1:8501:8500", "compose.yaml.ports is"),
    ("compose.yaml", "model-server:2.16.1", "model-server:2.16.2", "compose.yaml.image is"),
    ("compose.yaml", "    read_only: true\n    tmpfs", "    tmpfs", "read_only is None"),
    ("compose.yaml", "        read_only: true\n", "", "volume.read_only is None"),
    ("compose.yaml", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "cap_drop is"),
    ("compose.yaml", "no-new-privileges:true", "label:disable", "security_opt is"),
    ("compose.yaml", "mem_limit: 1g", "mem_limits: 1g", "'mem_limits' was unexpected"),
    ("compose.yaml", "    mem_limit: 1g\n", "", "'mem_limit' is a required property"),
    ("compose.yaml", "cpus: 2", "cpus: 4", "parallelism is '2', expected '4'"),
    ("compose.yaml", "--num_tflite_pools", "--num_pools", "no flag --num_pools"),
    ("compose.yaml", "name:", "name: a\nname:", "a key is there twice"),
    ("compose.yaml", "MODEL_NAME: ", "MODEL_NAME: my_", "MODEL_NAME is 'my_"),
    ("compose.yaml", "restart: unless-stopped", "restart: sometimes", "'sometimes' is not one of"),
    (KUSTOMIZE, "MODEL_NAME=", "MODEL_NAME=my_", "environment is"),
    (KUSTOMIZE, "  - storage.yaml\n", "", "resources is"),
    (KUSTOMIZE, "      - batching.config\n", "", "--batching_parameters_file is not among"),
    (KUSTOMIZE, "name: model-server-files", "name: files", "--monitoring_config_file is not among"),
    (KUSTOMIZE, "name: model-server-environment", "name: environment", "environment is"),
    (KUSTOMIZE, "resources:", "resource:", "'resource' was unexpected"),
    ("kubernetes/monitoring.config", "enable: true", "enable: false", "enable is False"),
    ("kubernetes/monitoring.config", "/monitoring/", "/", "monitoring.config: path is"),
    ("kubernetes/monitoring.config", "path", "paths", 'no field named "paths"'),
    ("kubernetes/monitoring.config", "MonitoringConfig", "Config", "first line names none"),
    ("kubernetes/batching.config", "value: 2 }", "value: two }", "Couldn't parse integer"),
    ("kubernetes/batching.config", "value: 2 }", "value: 4 }", "cpus is 2, expected 4"),
    ("kubernetes/batching.config", "value: 2 }", "value: 4 }", "limits.cpu is 2, expected 4"),
    (DEPLOYMENT, "serving:2.16.1", "serving:2.6.2", "deployment.yaml: image is"),
    (DEPLOYMENT, "containerPort: 8501", "containerPort: 8080", "deployment.yaml: ports is"),
    (DEPLOYMENT, "- name: rest", "- name: http", "deployment.yaml: ports is"),
    (DEPLOYMENT, "- --port=8500", "- --port=9000", "deployment.yaml.port is '9000'"),
    (DEPLOYMENT, "port: 8500\n            per", "port: 8501\n            per", "startupProbe is"),
    (DEPLOYMENT, "livenessProbe", "livelinessProbe", "'livelinessProbe' was unexpected"),
    (DEPLOYMENT, "healthcheck_service=true", "healthcheck_service=false", "healthcheck_service is"),
    (DEPLOYMENT, "containerPort: 8500", 'containerPort: "8500"', "is not of type 'integer'"),
    (DEPLOYMENT, "readOnlyRootFilesystem", "readOnlyRootFileSystem", "was unexpected"),
    (DEPLOYMENT, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "is False"),
    (DEPLOYMENT, "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is False"),
    (DEPLOYMENT, "type: RuntimeDefault", "type: Unconfined", "seccompProfile.type is"),
    (DEPLOYMENT, "drop: [ALL]", "drop: [NET_RAW]", "capabilities.drop is"),
    (DEPLOYMENT, "PrivilegeEscalation: false", "PrivilegeEscalation: true", "Escalation is True"),
    (DEPLOYMENT, "AccountToken: false", "AccountToken: true", "automountServiceAccountToken is"),
    (DEPLOYMENT, "memory: 1Gi", "memory: 256Mi", "memory of 512Mi is requested, limited to 256Mi"),
    (DEPLOYMENT, 'cpu: "2"', 'cpu: "4"', "limits.cpu is 4, expected 2"),
    (DEPLOYMENT, "pools=$(CPUS)", "pools=4", "--num_tflite_pools is '4'"),
    (DEPLOYMENT, "resource: limits.cpu", "resource: requests.cpu", "deployment.yaml: env is"),
    (DEPLOYMENT, "claimName: serving-directory", "claimName: models", "claims is"),
    (DEPLOYMENT, "mountPath: /models", "mountPath: /srv", "mounts of the claim is"),
    (DEPLOYMENT, "/models\n              readOnly: true", "/models", "mounts of the claim is"),
    (DEPLOYMENT, "directory\n            readOnly: true", "directory", "claims is"),
    (DEPLOYMENT, "mountPath: /etc/model-server", "mountPath: /etc/server", "is not among"),
    (DEPLOYMENT, "name: model-server-files", "name: model-server-file", "is not among"),
    (DEPLOYMENT, "grpc_max_threads=256", "grpc_max_threads=16", "grpc_max_threads is '16'"),
    (DEPLOYMENT, "--rest_api_num_threads", "--rest_num_threads", "no flag --rest_num_threads"),
    (DEPLOYMENT, 'port: "8501"', 'port: "8080"', "prometheus.io/port is '8080'"),
    (DEPLOYMENT, "path: /monitoring", "path: /metrics", "prometheus.io/path is"),
    (DEPLOYMENT, '"45"', '"5"', "preStop takes 5.0 s"),
    (DEPLOYMENT, "GracePeriodSeconds: 50", "GracePeriodSeconds: 30", "and the pod 30 s"),
    (DEPLOYMENT, "age_ms=20000", "age_ms=60000", "a connection may last 77 s"),
    (DEPLOYMENT, "connection_age_ms", "connection_idle_ms", "a connection may last inf s"),
    (DEPLOYMENT, "maxUnavailable: 0", "maxUnavailable: 1", "maxUnavailable is 1"),
    (DEPLOYMENT, "strategy:", "replicas: 3\n  strategy:", "replicas is for the autoscaler"),
    (DEPLOYMENT, "kind: Deployment", "kind: Deployment: x", "mapping values are not allowed here"),
    (DEPLOYMENT, "kind:", "kind: Deployment\nkind:", "a key is there twice"),
    (DEPLOYMENT, "apiVersion: apps/v1", "apiVersion: apps/v1beta1", "Couldn't find schema"),
    (DEPLOYMENT, "# TensorFlow", "# Carrier", "the word 'Carrier' belongs to the example"),
    (DEPLOYMENT, "# TensorFlow", f"# {MODEL}", f"how often it says {MODEL} is 1, expected 0"),
    (SERVICE, "targetPort: rest", "targetPort: http", "service.yaml: ports is"),
    (SERVICE, "port: 8501", "port: 80", "service.yaml: ports is"),
    (SERVICE, "selector:\n    app", "selector:\n    the-app", "service.yaml: selector is"),
    (AUTOSCALER, "    name: model-server", "    name: server", "autoscaler.yaml.name is"),
    (AUTOSCALER, "minReplicas: 2", "minReplicas: 1", "minReplicas is not between"),
    (AUTOSCALER, "averageUtilization: 70", "averageUtilisation: 70", "was unexpected"),
    (AUTOSCALER, "autoscaling/v2", "autoscaling/v2beta2", "Couldn't find schema"),
    (
        "kubernetes/disruption-budget.yaml",
        "      app.kubernetes.io/name: m",
        "      app: m",
        "selector is",
    ),
    ("kubernetes/disruption-budget.yaml", "    matchLabels:", "    matchLabel:", "was unexpected"),
    (POLICY, "- port: grpc", "- port: http", "ingress is"),
    (POLICY, "    - from:\n        - podSelector: {}\n      ports:", "    - ports:", "ingress is"),
    (POLICY, "egress: []", "egress: [{}]", "egress is [{}]"),
    (POLICY, "[Ingress, Egress]", "[Ingress]", "policyTypes is"),
    (STORAGE, "ReadWriteMany", "ReadWriteOnce", "could not mount it"),
    (STORAGE, "name: serving-directory", "name: models", "storageUri is"),
    (KSERVE, "runtimeVersion: 2.16.1", "runtimeVersion: 2.16.2", "runtimeVersion is '2.16.2'"),
    (KSERVE, "runtimeVersion", "version", "'runtimeVersion' is a required property"),
    (KSERVE, "--model_name=", "--model_name=my_", "model_name is 'my_"),
    (KSERVE, "/mnt/models/", "/models/", "model_base_path is '/models/"),
    (KSERVE, "--grpc_max_threads", "--grpc_threads", "no flag --grpc_threads"),
    (KSERVE, "name: model-server", "name: model_server", "does not match"),
    (KSERVE, "v1beta1", "v1alpha2", "'serving.kserve.io/v1beta1' was expected"),
    (KSERVE, "storageUri: pvc:", "storageUri: /pvc:", "does not match"),
    (KSERVE, "name: tensorflow", "name: tensorflow2", "'tensorflow' was expected"),
    (KSERVE, "scaleMetric: cpu", "scaleMetric: load", "'load' is not one of"),
    (KSERVE, "    minReplicas:", "    minReplica:", "'minReplica' was unexpected"),
    (KSERVE, "      storageUri", "      storageURI: x\n      storageUri", "'storageURI' was"),
    (KSERVE, 'cpu: "2"', 'cpu: "4"', "parallelism is '2', expected '4'"),
    (KSERVE, "memory: 512Mi", "memory: 2Gi", "memory of 2Gi is requested"),
    (KSERVE, "AccountToken: false", "AccountToken: true", "automountServiceAccountToken is"),
]


@pytest.mark.parametrize(("path", "old", "new", "problem"), SLIPS)
def test_a_slip_is_found(path: str, old: str, new: str, problem: str) -> None:
    files = read_files()
    assert old in files[path]
    found = problems({**files, path: files[path].replace(old, new, 1)})
    assert any(problem in one for one in found), found


def test_a_file_that_nothing_checks_is_found() -> None:
    found = problems({**read_files(), "helm/values.yaml": "replicas: 2\n"})
    assert found == ["helm/values.yaml: there is no check for this file"]


def test_a_resource_that_kustomize_would_not_apply_is_found() -> None:
    resource = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: token\n"
    (found,) = problems({**read_files(), "kubernetes/secret.yaml": resource})
    assert "kustomization.yaml: resources is" in found


def test_an_invalid_resource_that_is_added_is_found() -> None:
    resource = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: token\ndate: {}\n"
    found = problems({**read_files(), "kubernetes/secret.yaml": resource})
    assert len(found) == len(KUBERNETES_VERSIONS)
    assert all("'date' was unexpected" in problem for problem in found)


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


def test_the_server_takes_the_place_of_the_entrypoint(stand_in: Path) -> None:
    started = start(stand_in, MODEL_NAME="my model", PREFER_TFLITE="true")
    process, *arguments = started.communicate(timeout=60)[0].splitlines()
    assert started.returncode == 0
    assert int(process) == started.pid  # so that it is what the container is stopped by
    assert flags(arguments) == entrypoint_flags(read_files()) | {
        "model_name": "my model",
        "model_base_path": "/models/my model",
        "prefer_tflite_model": "true",
    }


def test_arguments_come_last_so_that_they_win(stand_in: Path) -> None:
    started = start(stand_in, "--a=1 2", "--b", MODEL_NAME="m", PREFER_TFLITE="false")
    assert started.communicate(timeout=60)[0].splitlines()[-2:] == ["--a=1 2", "--b"]


@pytest.mark.parametrize("missing", ["MODEL_NAME", "PREFER_TFLITE"])
def test_a_variable_that_is_missing_is_named_and_no_server_is_started(
    stand_in: Path, missing: str
) -> None:
    variables = {"MODEL_NAME": "m", "PREFER_TFLITE": "false"}
    del variables[missing]
    started = start(stand_in, **variables)
    output, error = started.communicate(timeout=60)
    assert (started.returncode, output) == (1, "")
    assert missing in error


@contextmanager
def status_server(status: int, body: str) -> Iterator[tuple[int, list[str]]]:
    """A server that gives one answer; its port, and the requests it has had."""
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
    """The answer of TensorFlow Serving's REST interface to a request for a model's status."""
    versions = ",\n".join(
        f'  {{\n   "version": "{version}",\n   "state": "{state}",\n   "status": {{\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }'
        for version, state in enumerate(states, 1)
    )
    return f'{{\n "model_version_status": [\n{versions}\n ]\n}}\n'


def test_a_server_that_serves_a_version_is_healthy() -> None:
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
def test_a_server_that_serves_no_version_is_not_healthy(status: int, body: str) -> None:
    with status_server(status, body) as (port, _):
        assert not is_healthy(port)


def test_a_port_where_nothing_listens_is_not_healthy() -> None:
    with status_server(200, "") as (port, _):
        pass
    assert not is_healthy(port)


# The page


def test_the_page_names_files_flags_and_a_tag_that_there_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"--([a-z]+(?:_[a-z]+)+)", page)) <= FLAGS
    paths = set(re.findall(r"\bserving/deploy/[\w./-]*\w", page))
    assert paths
    assert [path for path in paths if not (PROJECT / path).exists()] == []
    assert set(re.findall(r"(?:serving|server):(\d+\.[\d.]*\d)", page)) == {base_tag(read_files())}
    ports = set(re.findall(r":(8\d{3})\b", page))
    assert ports == {str(port) for port in PORTS.values()}
    assert METRICS_PATH in page


def test_configuration_on_the_page_is_such_as_the_server_reads() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```textproto\n(.*?)```", page, re.DOTALL)
    messages = [parse_config(textwrap.dedent(block)) for block in blocks]
    names = [message.DESCRIPTOR.name for message in messages]
    assert names == ["SSLConfig", "ModelServerConfig"]
    (model,) = messages[1].model_config_list.config
    assert (model.name, model.base_path) == (MODEL, f"/models/{MODEL}")
    assert model.model_platform == "tensorflow"
    loaded = set(model.model_version_policy.specific.versions)
    assert set(model.version_labels.values()) == loaded
