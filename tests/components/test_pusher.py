"""Pusher on small made-up artifacts: what it requires, what it publishes, and what it refuses."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import text_format
from tfx.v1.types import standard_artifacts as standard

from components.evaluator.verdict import Verdict
from components.pusher import Pusher
from components.served_model import ServedModel
from ml.artifacts import CompressionReport, TuningReport
from ml.effort import Stopwatch
from ml.tasks import Task
from storage.directory import ModelDirectory
from storage.encryption import key_of
from storage.encryption_keys import KEYS_VARIABLE, add_key
from storage.errors import UserError
from storage.keys import SignatureError, TrustStore, ensure_key_pair
from storage.names import TFLITE_MODEL
from storage.private_copy import private_copy
from storage.uris import model_digest
from tests.components.small_model import VOCABULARY, export

WARMUP = "assets.extra/tf_serving_warmup_requests"
MODEL = {"saved_model.pb": b"graph", TFLITE_MODEL: b"tflite", "variables/index": b"index"}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an Evaluator leaves behind."""
    folder = tmp_path_factory.mktemp("evaluation")
    config = text_format.Parse(
        """
        model_specs { label_key: "label" prediction_key: "probability" }
        metrics_specs { metrics { class_name: "AUC" } }
        slicing_specs {}
        """,
        tfma.EvalConfig(),
    )
    rows = pd.DataFrame({"label": [0.0, 1.0, 0.0, 1.0], "probability": [0.1, 0.9, 0.6, 0.4]})
    tfma.analyze_raw_data(rows, config, output_path=str(folder))
    Verdict(Task("binary", "label"), len(rows), margins={"auc": 0.02}).write(str(folder))
    return folder


def write(root: Path, tree: Mapping[str, bytes]) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def at(kind: Any, uri: Path) -> Any:
    artifact = kind()
    artifact.uri = str(uri)
    return artifact


class Run:
    """Pushes models as a run of the pipeline does, from artifacts below a folder."""

    def __init__(self, root: Path, evaluation: Path, run_component: Callable[..., Any]):
        self.root = root
        self.directory = ModelDirectory(str(root / "serving"), "model_name")
        self.blessings = {
            "blessing": write(root / "blessing", {"BLESSED": b""}),
            "compression_blessing": write(root / "compression", {"BLESSED": b""}),
            "infra_blessing": write(root / "infra", {"INFRA_BLESSED": b""}),
        }
        report = at(CompressionReport, root / "report")
        report.write({"mode": "int8"})
        examples = at(standard.Examples, root / "examples")
        examples.set_string_custom_property("spans", '{"train": [201301], "test": [201302]}')
        statistics = write(root / "statistics", {"Split-train/FeatureStats.pb": b"statistics"})
        self.inputs = {
            "compression_report": report,
            "evaluation": evaluation,
            "examples": examples,
            "statistics": statistics,
            "schema": write(root / "schema", {"schema.pbtxt": b"schema"}),
        }
        self.run_component = run_component

    def push(
        self, model: Mapping[str, bytes] = MODEL, infra_blessing: Any = None, **parameters: Any
    ) -> Any:
        folder = self.root / "models" / str(len(list(self.root.glob("models/*"))))
        write(folder / "Format-Serving", model)
        inputs = {"model": folder, **self.blessings, **self.inputs}
        if infra_blessing is not None:
            inputs["infra_blessing"] = infra_blessing
        return self.run_component(
            Pusher,
            inputs,
            serving_dir=self.directory.serving_dir,
            model_name=self.directory.model_name,
            **parameters,
        )["pushed_model"]

    def with_warmup(self, requests: bytes) -> Any:
        """A blessing that holds warm-up requests."""
        blessing = at(standard.InfraBlessing, self.root / f"infra_{requests.decode()}")
        write(Path(blessing.uri), {"INFRA_BLESSED": b"", WARMUP: requests})
        return blessing


@pytest.fixture
def run(tmp_path: Path, evaluation: Path, run_component: Callable[..., dict[str, Any]]) -> Run:
    return Run(tmp_path, evaluation, run_component)


def read(root: str) -> dict[str, bytes]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_pusher_publishes_a_blessed_model_with_its_provenance(run: Run) -> None:
    pushed = run.push(run_key="abc")
    (version,) = run.directory.versions()
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_version") == str(version)
    destination = pushed.get_string_custom_property("pushed_destination")
    assert destination == run.directory.version_uri(version)
    assert read(destination) == MODEL
    record = run.directory.provenance(version)
    assert (record["version"], record["run_key"], record["compression"]) == (version, "abc", "int8")
    assert record["spans"] == {"train": [201301], "test": [201302]}
    assert record["metrics"]["auc"] == pytest.approx(0.75)
    assert "InfraBlessing" in record["artifacts"]
    assert set(os.listdir(run.directory.provenance_uri(version))) == {
        *("provenance.json", "metrics.json", "compression.json", "schema.pbtxt"),
        *("training_statistics.pb", "intervals.json", "card.md", "card.json"),
    }


def test_pusher_signs_a_model_card_with_what_nodes_took(run: Run) -> None:
    model_run = at(standard.ModelRun, run.root / "run")
    Stopwatch("Trainer").stop(model_run)
    run.inputs["model_run"] = model_run
    key = run.root / "keys" / "signing.key"
    run.push(signing_key=str(key), card="**Intended use.** Tests <b>alone</b>.\n")
    (version,) = run.directory.versions()
    folder = Path(run.directory.provenance_uri(version))
    card = json.loads((folder / "card.json").read_text())
    assert (card["version"], card["data"]["spans"]["test"]) == (version, [201302])
    overall = card["metrics"][0]["values"]["auc"]
    assert overall["value"] == pytest.approx(0.75)
    assert [node["node"] for node in card["effort"]["nodes"]] == ["Trainer"]
    text = (folder / "card.md").read_text()
    assert "The team: Tests &lt;b>alone&lt;/b>." in text
    assert f"version {version}\n" in text
    trust = TrustStore([str(key.with_name("signing.pub"))])
    private_copy(run.directory, version, trust).close()
    (folder / "card.md").write_text(text.replace("Tests", "Anything"))
    with pytest.raises(SignatureError, match=f"changed: .flightdeck/{version}/card.md"):
        private_copy(run.directory, version, trust)


def test_pusher_publishes_the_background_rows_of_explanations_where_there_are_some(
    run: Run,
) -> None:
    run.inputs["explanations"] = write(run.root / "explanations", {"explanations.json": b"{}"})
    run.push()
    write(run.root / "explanations", {"background.json": b"rows"})
    run.push({**MODEL, "saved_model.pb": b"another"})
    without, version = run.directory.versions()
    assert "background.json" not in read(run.directory.provenance_uri(without))
    assert read(run.directory.provenance_uri(version))["background.json"] == b"rows"
    assert "Explanations" in run.directory.provenance(version)["artifacts"]


@pytest.mark.parametrize(
    "name", ["blessing", "compression_blessing", "infra_blessing", "explanation_blessing"]
)
def test_pusher_publishes_nothing_without_all_blessings(run: Run, name: str) -> None:
    run.blessings["explanation_blessing"] = write(run.root / "explained", {"BLESSED": b""})
    for file in run.blessings[name].iterdir():
        file.rename(file.with_name(file.name.replace("BLESSED", "NOT_BLESSED")))
    pushed = run.push(signing_key=str(run.root / "keys" / "signing.key"))
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("reason") == "not blessed"
    assert not Path(run.directory.serving_dir).exists()
    assert not (run.root / "keys").exists()


def test_pusher_publishes_the_model_byte_for_byte_and_the_warmup_requests(run: Run) -> None:
    run.push(infra_blessing=run.with_warmup(b"requests"))
    (version,) = run.directory.versions()
    assert read(run.directory.version_uri(version)) == {**MODEL, WARMUP: b"requests"}


def test_pusher_does_not_publish_a_model_twice_for_other_warmup_requests(run: Run) -> None:
    run.push(infra_blessing=run.with_warmup(b"some"))
    (version,) = run.directory.versions()
    for blessing in (run.with_warmup(b"others"), None):
        pushed = run.push(infra_blessing=blessing)
        assert pushed.get_int_custom_property("pushed") == 0
        reason = pushed.get_string_custom_property("reason")
        assert reason == f"the same model is version {version}"
    assert run.directory.versions() == [version]


def test_pusher_does_not_publish_a_rolled_back_model_as_new(run: Run) -> None:
    run.push({**MODEL, TFLITE_MODEL: b"older"})
    run.push()
    (older, newer) = run.directory.versions()
    run.directory.rollback()
    pushed = run.push()
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("reason") == (
        f"the same model is version {newer}, which was rolled back"
    )
    assert run.directory.versions() == [older]


def test_pusher_signs_warmup_requests_too_with_a_key_made_on_first_use(run: Run) -> None:
    key = run.root / "keys" / "signing.key"
    run.push(infra_blessing=run.with_warmup(b"requests"), signing_key=str(key))
    (version,) = run.directory.versions()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert run.directory.provenance(version)["signed"] is True
    trust = TrustStore([str(key.with_name("signing.pub"))])
    private_copy(run.directory, version, trust).close()
    Path(run.directory.version_uri(version), WARMUP).write_bytes(b"changed")
    with pytest.raises(SignatureError, match=f"changed: {version}/{WARMUP}"):
        private_copy(run.directory, version, trust)


def test_pusher_signs_the_provenance(run: Run) -> None:
    key = run.root / "keys" / "signing.key"
    run.push(signing_key=str(key))
    (version,) = run.directory.versions()
    trust = TrustStore([str(key.parent)])
    for name in ("training_statistics.pb", "provenance.json"):
        path = Path(run.directory.provenance_uri(version), name)
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        with pytest.raises(SignatureError, match=f"changed: .flightdeck/{version}/{name}"):
            private_copy(run.directory, version, trust)
        path.write_bytes(before)
    private_copy(run.directory, version, trust).close()


def test_pusher_signs_with_a_password_that_is_in_no_artifact(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNING_PASSWORD", "not a word")
    key = run.root / "keys" / "signing.key"
    run.push(signing_key=str(key), signing_password="env:SIGNING_PASSWORD")
    (version,) = run.directory.versions()
    private_copy(run.directory, version, TrustStore([str(key.parent)])).close()
    assert all(b"not a word" not in p.read_bytes() for p in run.root.rglob("*") if p.is_file())
    with pytest.raises(UserError, match="has a password: say where it is"):
        run.push({**MODEL, TFLITE_MODEL: b"newer"}, signing_key=str(key))


def test_pusher_signs_with_a_key_of_a_variable_and_writes_it_nowhere(
    run: Run, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ensure_key_pair(str(tmp_path_factory.mktemp("keys") / "signing.key"))
    monkeypatch.setenv("SIGNING_KEY", Path(keys.private).read_text())
    run.push(signing_key="env:SIGNING_KEY")
    (version,) = run.directory.versions()
    private_copy(run.directory, version, TrustStore([keys.public])).close()
    assert all(b"PRIVATE" not in p.read_bytes() for p in run.root.rglob("*") if p.is_file())


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o000])
@pytest.mark.parametrize(
    ("file_mode", "modes"), [("0644", {0o644, 0o755}), ("0640", {0o640, 0o750})]
)
def test_pusher_sets_file_modes_whatever_the_umask(
    run: Run, umask: int, file_mode: str, modes: set[int]
) -> None:
    before = os.umask(umask)
    try:
        run.push(signing_key=str(run.root / "keys" / "signing.key"), file_mode=file_mode)
    finally:
        os.umask(before)
    (version,) = run.directory.versions()
    root = Path(run.directory.serving_dir)
    lock = root / "model_name" / ".flightdeck" / "lock"
    paths = [root, *(path for path in root.rglob("*") if path != lock)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == modes
    assert Path(run.directory.signature_uri(version)) in paths


def test_pusher_names_a_serving_directory_that_cannot_be_used(run: Run) -> None:
    Path(run.directory.uri, str(2**63 - 1)).mkdir(parents=True)
    with pytest.raises(UserError, match=f"version {2**63 - 1} in .* leaves no higher number"):
        run.push()


def test_pusher_signs_the_next_version_with_the_same_key(run: Run) -> None:
    key = str(run.root / "keys" / "signing.key")
    run.push(signing_key=key)
    run.push({**MODEL, TFLITE_MODEL: b"newer"}, signing_key=key)
    for version in run.directory.versions():
        private_copy(run.directory, version, TrustStore([ensure_key_pair(key).public])).close()


def test_pusher_without_a_key_records_an_unsigned_version(run: Run) -> None:
    run.push()
    (version,) = run.directory.versions()
    assert run.directory.provenance(version)["signed"] is False
    assert not Path(run.directory.signature_uri(version)).exists()


def test_pusher_does_not_publish_what_cannot_be_signed(run: Run) -> None:
    keys = ensure_key_pair(str(run.root / "signing.key"))
    os.chmod(keys.private, 0o644)
    with pytest.raises(UserError, match=f"chmod 600 {keys.private}"):
        run.push(signing_key=keys.private)
    assert run.directory.versions() == []
    os.chmod(keys.private, 0o600)
    run.push(signing_key=keys.private)
    assert len(run.directory.versions()) == 1


def test_pusher_deletes_old_versions_but_those_with_a_label(run: Run) -> None:
    versions = []
    for content in (b"1", b"2", b"3", b"4"):
        run.push({**MODEL, TFLITE_MODEL: content})
        versions.append(run.directory.served())
    run.directory.pin(run.directory.versions()[0], "stable")
    run.push({**MODEL, TFLITE_MODEL: b"5"}, keep_versions=2)
    newest = run.directory.served()
    assert run.directory.versions() == [versions[0], versions[3], newest]


def test_pusher_deletes_nothing_when_it_pushes_nothing(run: Run) -> None:
    run.push({**MODEL, TFLITE_MODEL: b"1"})
    run.push()
    run.push(keep_versions=1)
    assert len(run.directory.versions()) == 2


def test_pusher_records_the_digest_of_the_model_without_warmup_requests(run: Run) -> None:
    run.push(infra_blessing=run.with_warmup(b"requests"))
    (version,) = run.directory.versions()
    model = str(run.root / "models" / "0" / "Format-Serving")
    assert run.directory.provenance(version)["model_digest"] == model_digest(model)
    saved = json.loads(Path(run.directory.provenance_uri(version), "provenance.json").read_text())
    assert saved["model_digest"] != model_digest(run.directory.version_uri(version))


def exported(folder: Path, **changes: Any) -> dict[str, bytes]:
    return read(str(export(folder, **changes)))


def test_pusher_does_not_publish_a_model_that_differs_only_in_bytes(
    run: Run, tmp_path: Path
) -> None:
    first = exported(tmp_path / "first")
    second = exported(tmp_path / "second")  # Its functions have other numbers in their names.
    assert first["saved_model.pb"] != second["saved_model.pb"]
    run.push()
    run.push(first)
    version = run.directory.served()
    pushed = run.push(second)
    assert pushed.get_string_custom_property("reason") == f"the same model is version {version}"
    run.directory.rollback()
    assert run.push(second).get_string_custom_property("reason") == (
        f"the same model is version {version}, which was rolled back"
    )
    swapped = (VOCABULARY[1], VOCABULARY[0], *VOCABULARY[2:])
    other = exported(tmp_path / "other", vocabulary=swapped)
    assert run.push(other).get_int_custom_property("pushed") == 1


def test_pusher_does_not_publish_the_run_key_of_a_rolled_back_version(
    run: Run,
) -> None:
    run.push(run_key="old")
    run.push({**MODEL, TFLITE_MODEL: b"new"}, run_key="new")
    version = run.directory.served()
    run.directory.rollback()
    pushed = run.push({**MODEL, TFLITE_MODEL: b"by chance another"}, run_key="new")
    assert pushed.get_string_custom_property("reason") == (
        f"version {version} was made from the same data, configuration and code, and was rolled "
        "back: promote it, or change one of them"
    )
    assert len(run.directory.versions()) == 1
    run.push({**MODEL, TFLITE_MODEL: b"newer"}, run_key="newer")
    assert len(run.directory.versions()) == 2


def test_pusher_publishes_another_model_of_the_same_run_key(
    run: Run,
) -> None:
    run.push(run_key="same")
    pushed = run.push({**MODEL, TFLITE_MODEL: b"by chance another"}, run_key="same")
    assert pushed.get_int_custom_property("pushed") == 1


def test_pusher_finds_an_older_version_by_the_digest_of_its_files(run: Run) -> None:
    run.push()
    (version,) = run.directory.versions()
    path = Path(run.directory.provenance_uri(version), "provenance.json")
    record = json.loads(path.read_text())
    del record["model_identity"]
    path.write_text(json.dumps(record))
    reason = run.push().get_string_custom_property("reason")
    assert reason == f"the same model is version {version}"


def test_pusher_encrypted_version_becomes_the_baseline_and_is_not_pushed_twice(
    run: Run, run_component: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    keys, signing_key = str(run.root / "encryption.keys"), str(run.root / "keys" / "signing.key")
    with pytest.raises(UserError, match=f"no key to encrypt with.*{KEYS_VARIABLE}"):
        run.push(encrypt=True, signing_key=signing_key)
    name = add_key(keys)
    sealed: dict[str, Any] = {"encrypt": True, "encryption_keys": keys, "signing_key": signing_key}
    artifact = run.push(**sealed)
    (version,) = run.directory.versions()
    record = run.directory.provenance(version)
    assert (record["encrypted"], record["signed"]) == (True, True)
    everything = read(run.directory.uri) | read(artifact.uri)
    secret = (run.root / "encryption.keys").read_text().split()[1]
    assert [path for path, content in everything.items() if secret.encode() in content] == []
    assert key_of(everything[f"{version}/saved_model.pb"]) == name
    assert "the same model" in run.push(**sealed).get_string_custom_property("reason")

    def baseline(**parameters: Any) -> dict[str, Any]:
        return run_component(
            ServedModel,
            {},
            serving_dir=run.directory.serving_dir,
            model_name=run.directory.model_name,
            public_keys=json.dumps([str(run.root / "keys")]),
            **parameters,
        )

    served = baseline(encryption_keys=keys)
    assert read(os.path.join(served["model"].uri, "Format-Serving")) == MODEL
    found = read(served["statistics"].uri)
    assert list(found.values()) == [b"statistics"]
    needed = f"is encrypted with the key {name}: .*serving.encryption_keys"
    with pytest.raises(UserError, match=needed):
        baseline()


def test_pusher_keeps_the_search_of_the_settings_with_the_version(run: Run) -> None:
    report = at(TuningReport, run.root / "tuning")
    content = {"best": {"settings": {"training.epochs": 9}}, "trials": []}
    report.write(content)
    run.inputs["tuning"] = report
    version = int(run.push().get_string_custom_property("pushed_version"))
    assert run.directory.provenance(version)["hyperparameters"] == {"training.epochs": 9}
    folder = Path(run.directory.provenance_uri(version))
    assert json.loads((folder / "tuning.json").read_text()) == content
