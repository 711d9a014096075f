"""Tests of the page at `/` of a running server, as far as they need no browser."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from tensorflow.core.framework import types_pb2

from serving.__main__ import main
from serving.server.browsers import BrowserRules
from serving.server.errors import ServingError
from serving.server.form_maker import _to_text, make_form
from serving.server.loading import load_version
from serving.server.models import load_model
from serving.server.settings import ServerSettings
from serving.server.signatures import Signature, TensorInfo
from tests.conftest import PROJECT
from tests.serving.conftest import Sealed
from tests.serving.server import shown_models
from tests.serving.server.running import RunningServer, running, strings
from tests.serving.server.shown_models import CLASSES, COLOUR, HOSTILE_MODEL, MARKUP, QUOTES
from tests.serving.server.toys import f32, i64

PAGE = PROJECT / "serving/server/page"
FILES = ("/", "/ui/playground.css", "/ui/playground.js")
TOKENS = {
    "all": "",
    "kinds-only": 'models = ["kinds"]',
    "no-rows": 'methods = ["status", "metadata"]',
    "no-status": 'methods = ["predict"]',
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shown_models.save_shown(tmp_path_factory.mktemp("shown"))


@pytest.fixture(scope="module")
def guarded(shown: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the models that wants one of `TOKENS`."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(
        "\n".join(
            f"[[token]]\nname = '{name}'\nsha256 = '{hashlib.sha256(name.encode()).hexdigest()}'\n"
            f"{allowed}"
            for name, allowed in TOKENS.items()
        )
    )
    with running(shown, "--tokens", str(file)) as server:
        yield server


def get(server: RunningServer, path: str, token: str = "all") -> Any:
    response = server.http.get(path, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200, response.text
    return response.json()


def form_of(server: RunningServer, model: str, version: int = 1, token: str = "all") -> Any:
    return get(server, f"/ui/models/{quote(model, safe='')}/versions/{version}", token)


class Markup(HTMLParser):
    """Collects what makes a browser run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.addresses += [str(given[name]) for name in ("src", "href") if name in given]


def test_page_has_no_inline_script_or_style_and_no_address_of_another_server() -> None:
    markup = Markup()
    markup.feed((PAGE / "index.html").read_text())
    assert markup.inline == []
    local = [name for name in markup.addresses if not name.startswith(("#", "data:"))]
    assert sorted(f"/{name}" for name in local) == sorted(FILES[1:])
    for file in PAGE.iterdir():
        assert not re.search(r"https?://|@import|\burl\(", file.read_text()), file


def test_page_makes_no_markup_and_keeps_nothing() -> None:
    script = (PAGE / "playground.js").read_text()
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|"
        r"createContextualFragment|srcdoc|localStorage|sessionStorage|indexedDB|cookie|import\b"
    )
    assert re.findall(forbidden, script) == []


def test_server_shows_the_page_without_a_token_and_with_a_strict_policy(
    guarded: RunningServer,
) -> None:
    for path in FILES:
        response = guarded.http.get(path)
        assert response.status_code == 200
        policy = dict(
            part.strip().split(" ", 1)
            for part in response.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path", ["/ui/models", "/ui/models/kinds/versions/1", "/ui/models/x/versions/1", "/ui/x"]
)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_server_tells_nothing_of_its_models_without_a_token(
    guarded: RunningServer, path: str, headers: dict[str, str]
) -> None:
    response = guarded.http.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json() == {"error": "a bearer token is required"}


def test_server_lists_models_with_labels_and_states(guarded: RunningServer) -> None:
    guarded.wait_for("refused", model="tips")
    models = {one["name"]: one["versions"] for one in get(guarded, "/ui/models")["models"]}
    assert models.keys() == {"kinds", "tips", "price", "scores", HOSTILE_MODEL}
    refused, live, stable = models["tips"]
    assert (live["version"], live["live"], live["labels"]) == ("2", True, [])
    assert (stable["version"], stable["live"], stable["labels"]) == ("1", False, ["stable"])
    assert live["state"] == stable["state"] == "AVAILABLE"
    assert (refused["version"], refused["state"], refused["live"]) == ("3", "END", False)
    assert "Error parsing message" in refused["reason"]


def test_server_shows_a_token_its_own_models_alone(guarded: RunningServer) -> None:
    (model,) = get(guarded, "/ui/models", "kinds-only")["models"]
    assert model["name"] == "kinds"
    assert form_of(guarded, "kinds", token="kinds-only")["signature"] == "raw_features"
    headers = {"Authorization": "Bearer kinds-only"}
    response = guarded.http.get("/ui/models/price/versions/1", headers=headers)
    assert response.status_code == 403
    headers = {"Authorization": "Bearer no-status"}
    for path in ("/ui/models", "/ui/models/kinds/versions/1"):
        assert guarded.http.get(path, headers=headers).status_code == 403


def test_server_shows_no_row_of_the_data_to_a_token_that_may_not_predict(
    guarded: RunningServer,
) -> None:
    form = form_of(guarded, "kinds", token="no-rows")
    assert not form["has_example"]
    assert [field["value"] for field in form["fields"]] == ["", "[0.0, 0.0, 0.0]"]


def test_form_of_several_classes_has_names_vocabulary_and_a_warm_up_row(
    guarded: RunningServer,
) -> None:
    form = form_of(guarded, "kinds")
    assert (form["task"], form["signature"]) == ("multiclass", "raw_features")
    assert tuple(form["classes"]) == CLASSES
    assert form["has_example"]
    colour, vector = form["fields"]
    assert (colour["kind"], colour["value"]) == ("text", COLOUR)
    assert colour["choices"] == ["red", "blue", MARKUP]
    assert (vector["kind"], vector["shape"], vector["choices"]) == ("list", [3], [])
    assert json.loads(vector["value"]) == shown_models.VECTOR


def test_form_of_a_version_without_warm_up_requests_has_zeros(guarded: RunningServer) -> None:
    form = form_of(guarded, "price")
    assert (form["task"], form["classes"], form["has_example"]) == ("regression", [], False)
    assert [field["value"] for field in form["fields"]] == ["", "[0.0, 0.0, 0.0]"]
    form = form_of(guarded, "tips", 2)
    assert (form["task"], form["classes"]) == ("binary", ["no", "yes"])


def test_form_of_each_kind_of_input_is_sent_as_it_is_shown(guarded: RunningServer) -> None:
    """A request made of the form's own values is taken."""
    form = form_of(guarded, "scores")
    kinds = {field["name"]: field["kind"] for field in form["fields"]}
    assert kinds == {"company": "text", "distance": "float", "hour": "integer"}
    instance = {
        field["name"]: field["value"] if field["kind"] == "text" else json.loads(field["value"])
        for field in form["fields"]
    }
    response = guarded.rest(
        "scores/versions/1:predict",
        {"signature_name": form["signature"], "instances": [instance]},
        headers={"Authorization": "Bearer all"},
    )
    assert response.json()["predictions"] == [[0.5]]


def test_form_carries_hostile_names_as_they_are(guarded: RunningServer) -> None:
    form = form_of(guarded, HOSTILE_MODEL)
    assert [field["name"] for field in form["fields"]] == sorted([MARKUP, QUOTES])
    headers = {"Authorization": "Bearer all"}
    response = guarded.http.get(f"/ui/models/{quote(HOSTILE_MODEL)}/versions/1", headers=headers)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("version", ["3", "9", "9" * 19, "9" * 30, "-1", "x", "1/x"])
def test_form_of_a_version_that_is_not_served_is_not_found(
    guarded: RunningServer, version: str
) -> None:
    headers = {"Authorization": "Bearer all"}
    response = guarded.http.get(f"/ui/models/tips/versions/{version}", headers=headers)
    assert response.status_code == 404
    assert response.json()["error"]


def test_server_shows_no_page_with_no_ui(toys: Path) -> None:
    with running(toys, "--no-ui") as server:
        for path in (*FILES, "/ui/models"):
            assert server.http.get(path).status_code == 404
        assert server.rest("toy").status_code == 200


def test_page_files_are_installed_with_their_package() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["serving.server"]
    files = [path.relative_to(PROJECT / "serving/server") for path in PAGE.iterdir()]
    assert len(files) == len(FILES)
    assert all(any(file.match(pattern) for pattern in patterns) for file in files)


# Forms.


def test_load_version_takes_no_row_of_an_encrypted_version(sealed: Sealed, shown: Path) -> None:
    forms = []
    for version, encrypt in ((1, False), (2, True)):
        sealed.publish(version, shown / "kinds" / "1", encrypt=encrypt)
        settings = ServerSettings(
            sealed.directory.serving_dir, trust=sealed.trust, encryption_keys=str(sealed.key_file)
        )
        model = load_version(settings, sealed.directory, version, threading.Event())
        forms.append(model.form.to_json(with_example=True))
    assert [form["has_example"] for form in forms] == [True, False]
    assert forms[1]["fields"][1]["value"] == "[0.0, 0.0, 0.0]"


def test_make_form_reads_a_tflite_model_too(toys: Path) -> None:
    folder = str(toys / "toy" / "2")
    form = make_form(
        load_model(folder, prefer_tflite=True, concurrency=1), folder, with_example=True
    )
    assert (form.signature, form.task, form.classes) == ("raw_features", "", ())
    assert {field.name for field in form.fields} == {"company", "distance", "hour"}


class OneSignature:
    """A model that is not run, with a signature of one input."""

    def __init__(self, name: str, dtype: int, shape: tuple[int | None, ...] | None):
        info = TensorInfo(dtype, shape)
        self.signatures = {"serving_default": Signature({name: info}, {"y": info})}


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("examples", types_pb2.DT_STRING, (None,)),
        ("inputs", types_pb2.DT_STRING, (None,)),
        ("x", types_pb2.DT_COMPLEX64, (None,)),
        ("x", types_pb2.DT_FLOAT, ()),
        ("x", types_pb2.DT_FLOAT, (7,)),
        ("x", types_pb2.DT_FLOAT, (None, 224, 224, 3)),
    ],
)
def test_make_form_leaves_out_a_signature_whose_inputs_no_form_can_hold(
    tmp_path: Path, name: str, dtype: int, shape: tuple[int | None, ...]
) -> None:
    model: Any = OneSignature(name, dtype, shape)
    assert make_form(model, str(tmp_path), with_example=True).signature == ""


@pytest.mark.parametrize(
    ("name", "content", "choices"),
    [
        ("x", b"a\nb\na\n\nc", ("a", "b")),  # What has no end of line may be cut.
        ("x", b"\xff\n", ()),
        ("x", b"a" * 70_000 + b"\nb\n", ()),
        ("x", b"ab\n" * 30_000, ("ab",)),
        ("../secret", b"a\n", ()),
        ("y", b"a\n", ()),
        ("y" * 300, b"a\n", ()),  # No file can have that name.
        ("x\0", b"a\n", ()),
    ],
)
def test_make_form_reads_a_vocabulary_that_has_the_name_of_the_input(
    tmp_path: Path, name: str, content: bytes, choices: tuple[str, ...]
) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "secret").write_text("a\n")
    (tmp_path / "assets" / "x").write_bytes(content)
    model: Any = OneSignature(name, types_pb2.DT_STRING, (None,))
    (field,) = make_form(model, str(tmp_path), with_example=True).fields
    assert field.choices == choices


def test_form_shows_no_value_that_is_too_large_or_no_text() -> None:
    assert _to_text(strings(b"x" * 100_001)) is None
    assert _to_text(f32([[1] * 100_000])) is None
    assert _to_text(strings(b"\xff")) is None


@given(st.floats(width=32) | st.integers(-(2**63), 2**63 - 1) | st.text())
def test_form_shows_a_value_so_that_it_reads_back_the_same(value: float | int | str) -> None:
    if isinstance(value, str):
        text = _to_text(strings(value.encode(errors="surrogatepass")))
        assert text in (value, None)
    elif isinstance(value, int):
        assert int(_to_text(i64([value])) or "") == value
    else:
        text = _to_text(f32([value]))
        assert text is not None
        np.testing.assert_equal(np.float32(text or "NaN"), np.float32(value))


# What pages of other sites may send.

PREDICT = {
    "signature_name": "raw_features",
    "instances": [{"distance": 1.0, "hour": 2, "company": "AA"}],
}
REBOUND = ("/", "/ui/models", "/v1/models/toy", "/monitoring/prometheus/metrics")


def status(server: RunningServer, path: str, **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.get(path, headers=names).status_code


@pytest.mark.parametrize("path", REBOUND)
def test_server_refuses_a_name_that_may_be_another_sites(server: RunningServer, path: str) -> None:
    port = server.rest_port
    for host in ("127.0.0.1", "localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", "[::1]:1"):
        assert status(server, path, Host=host) == 200, host
    for host in (
        "rebound.example",
        f"rebound.example:{port}",
        "localhost.rebound.example",
        "x",
        "",
    ):
        response = server.http.get(path, headers={"Host": host})
        assert response.status_code == 403, host
        assert "--allowed-host" in response.json()["error"]
    assert (
        server.http.post(
            "/v1/models/toy:predict",
            content=json.dumps(PREDICT),
            headers={"Host": "rebound.example"},
        ).status_code
        == 403
    )


def test_server_that_wants_a_token_takes_any_name(guarded: RunningServer) -> None:
    headers = {"Host": "models.example", "Authorization": "Bearer all"}
    for path in ("/", "/ui/models", "/v1/models/kinds"):
        assert guarded.http.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # A program.
        ({"Origin": "{own}"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.proxy"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "{own}"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://[broken"}, False),
    ],
)
def test_server_takes_requests_of_its_own_page_alone(
    server: RunningServer, headers: dict[str, str], allowed: bool
) -> None:
    own = {name: value.format(own=server.rest_url) for name, value in headers.items()}
    predicted = server.rest("toy:predict", PREDICT, headers=own)
    assert predicted.status_code == (200 if allowed else 403)
    assert status(server, "/ui/models", **own) == (200 if allowed else 403)
    # A page may be linked to from anywhere, and a browser shows no other site what `/v1` says.
    assert status(server, "/", **own) == status(server, "/v1/models/toy", **own) == 200


def test_server_takes_requests_of_the_names_and_origins_that_it_is_told(toys: Path) -> None:
    page = "https://pages.example"
    options = ("--allowed-host", "models.example", "--cors-origin", page)
    with running(toys, *options) as server:
        assert status(server, "/ui/models", Host="Models.Example:1") == 200
        assert status(server, "/ui/models", Host="other.example") == 403
        headers = {"Origin": page, "Sec-Fetch-Site": "cross-site"}
        response = server.rest("toy:predict", PREDICT, headers=headers)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == page
        # The rows of the playground are not for other pages.
        assert status(server, "/ui/models", **headers) == 403


def sent(method: str = "GET", **headers: str) -> Request:
    """A request as an application sees it."""
    names = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    raw = [(name, value.encode("latin-1")) for name, value in names.items()]
    return Request({"type": "http", "method": method, "path": "/", "headers": raw})


def rules(**settings: Any) -> BrowserRules:
    return BrowserRules.of(ServerSettings("x", **settings))


def test_rules_of_a_server_that_other_machines_reach_leave_its_api_to_a_proxy() -> None:
    insecure = rules(host="0.0.0.0")
    insecure.check_api(sent(host="model-server:8501"))
    with pytest.raises(ServingError, match="has no name 'model-server'"):
        insecure.check_page(sent(host="model-server:8501"))
    rules(host="0.0.0.0", allowed_hosts=("model-server",)).check_page(sent(host="model-server"))
    rules(host="0.0.0.0", allowed_hosts=("*",)).check_page(sent(host="model-server"))


def test_rules_of_a_server_with_client_certificates_refuse_other_sites_and_take_any_name() -> None:
    """A browser sends the certificate of its user by itself."""
    mutual = rules(tls_certificate="x", tls_key="x", tls_client_ca="x")
    mutual.check_page(sent(host="models.example"))
    with pytest.raises(ServingError, match=r"page of https://evil\.example"):
        mutual.check_api(sent("POST", host="models.example", origin="https://evil.example"))
    with_token = rules(token_file="x")
    with_token.check_api(sent("POST", host="models.example", origin="https://evil.example"))


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:80"]
)
def test_rules_take_an_address_and_the_names_of_the_server(header: str) -> None:
    rules().check_host(sent(host=header))


@pytest.mark.parametrize(
    "header",
    [
        *("x", "localhost.x", "127.0.0.1.x:80", "x@127.0.0.1", "127.1", "2130706433", "0x7f.1"),
        *(
            "localhost:x",
            "localhost, x",
            "localhost.",
            "[localhost",
            "[::1",
            "::1]:80",
            "\xff",
            ":80",
        ),
    ],
)
def test_rules_refuse_any_other_name(header: str) -> None:
    with pytest.raises(ServingError, match="the server has no name"):
        rules().check_host(sent(host=header))


@pytest.mark.parametrize("name", ["http://x", "x:8501", "x/y", "", "*.example", "-x"])
def test_serve_refuses_an_allowed_host_that_is_no_name(name: str) -> None:
    done = CliRunner().invoke(main, ["serve", ".", "--no-verify", "--allowed-host", name])
    assert done.exit_code == 2
    assert f"{name!r} is no name of a host" in done.output
