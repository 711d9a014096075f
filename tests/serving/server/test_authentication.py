"""Tests of tokens: which files are taken, and which headers of a request."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server import authentication
from serving.server.authentication import Authenticator, Grant, UnauthenticatedError
from serving.server.errors import ServingError
from serving.server.metrics import ServerMetrics

SHA = hashlib.sha256(b"secret").hexdigest()
TOKEN = f'[[token]]\nname = "a"\nsha256 = "{SHA}"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    return path


def with_tokens(file: Path, content: str) -> Authenticator:
    file.write_text(content)
    return Authenticator("", str(file), ServerMetrics())


def with_token(file: Path, content: bytes) -> Authenticator:
    file.write_bytes(content)
    return Authenticator(str(file), "", ServerMetrics())


class TestTokenFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "token: Field required"),
            ("token = []", "token: List should have at least 1 item"),
            ("secret", "Expected '=' after a key"),
            (TOKEN + "model = []", "token.0.model: Extra inputs are not permitted"),
            (TOKEN + "models = 'toy'", "token.0.models: Input should be a valid frozenset"),
            (TOKEN + "methods = ['predicts']", "token.0.methods.0: Input should be 'predict'"),
            (TOKEN + TOKEN, "the token 'a' is there twice"),
            (TOKEN + TOKEN.replace("'a'", "'b'"), "is there twice"),
            (TOKEN + TOKEN.replace(SHA, "0" * 64), "the token 'a' is there twice"),
            (TOKEN.replace(SHA, SHA.upper()), "token.0.sha256: String should match pattern"),
            (TOKEN.replace(SHA, "secret"), "token.0.sha256: String should match pattern"),
            (TOKEN.replace('"a"', '""'), "token.0.name: String should have at least 1 character"),
            (TOKEN + "models = ['a']\nmethods = ['metrics']", "tells of all models"),
        ],
    )
    def test_malformed_tokens_are_refused_without_repeating_them(
        self, file: Path, content: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match="^" + str(file)) as refused:
            with_tokens(file, content)
        assert message in str(refused.value)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_tokens_may_begin_with_a_byte_order_mark(self, file: Path) -> None:
        assert with_tokens(file, "\ufeff" + TOKEN).authenticate(["Bearer secret"]).client == "a"

    def test_tokens_that_are_not_text_are_refused(self, file: Path) -> None:
        file.write_bytes(b"\xff")
        with pytest.raises(ValueError, match="can't decode"):
            Authenticator("", str(file), ServerMetrics())

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
    def test_token_readable_by_owner_and_group_is_accepted(self, file: Path, mode: int) -> None:
        with_token(file, b"secret")
        file.chmod(mode)
        assert Authenticator(str(file), "", ServerMetrics()).is_needed

    @pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602, 0o666])
    def test_token_that_others_can_read_or_change_is_refused(self, file: Path, mode: int) -> None:
        file.write_bytes(b"secret")
        file.chmod(mode)
        with pytest.raises(OSError, match=f"mode {mode:04o}, so that others can read or change it"):
            Authenticator(str(file), "", ServerMetrics())

    def test_hashed_tokens_may_be_read_but_not_changed_by_others(self, file: Path) -> None:
        with_tokens(file, TOKEN)
        file.chmod(0o644)
        Authenticator("", str(file), ServerMetrics())
        for mode in (0o664, 0o646):
            file.chmod(mode)
            with pytest.raises(OSError, match="so that others can change it: chmod 644"):
                Authenticator("", str(file), ServerMetrics())

    def test_reload_keeps_the_tokens_when_the_file_cannot_be_read(self, file: Path) -> None:
        authenticator = with_tokens(file, TOKEN)
        for spoil in (lambda: file.write_text("[["), lambda: file.chmod(0o666), file.unlink):
            spoil()
            with pytest.raises((ValueError, OSError)):
                authenticator.reload()
            assert authenticator.authenticate(["Bearer secret"]).client == "a"

    def test_tokens_of_both_files_are_valid_together(self, file: Path, tmp_path: Path) -> None:
        file.write_text(TOKEN + "models = ['toy']")
        single = tmp_path / "single"
        single.touch(0o600)
        single.write_text("other\n")
        authenticator = Authenticator(str(single), str(file), ServerMetrics())
        assert authenticator.authenticate(["Bearer secret"]).models == {"toy"}
        assert authenticator.authenticate(["Bearer other"]) == Grant()


class TestAuthorizationHeaders:
    def reason(self, authenticator: Authenticator, headers: list[Any]) -> str:
        with pytest.raises(UnauthenticatedError) as refused:
            authenticator.authenticate(headers)
        assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
        return refused.value.reason

    def test_authenticator_without_files_accepts_any_request(self) -> None:
        authenticator = Authenticator("", "", ServerMetrics())
        assert authenticator.authenticate([]) == authenticator.authenticate(["x", "y"]) == Grant()

    @pytest.mark.parametrize(
        "header", ["Bearer secret", "bearer secret", "BEARER  secret", b"bearer secret"]
    )
    def test_scheme_may_be_in_any_case(self, file: Path, header: str | bytes) -> None:
        assert with_token(file, b"secret").authenticate([header]) == Grant()

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ([], "missing"),
            ([""], "missing"),
            (["Bearer"], "missing"),
            (["Bearer "], "missing"),
            (["Basic secret"], "missing"),
            (["secret"], "missing"),
            (["Bearersecret"], "missing"),
            (["Bearer Secret"], "wrong"),
            (["Bearer secre"], "wrong"),
            (["Bearer secret, Bearer secret"], "wrong"),
            (["Bearer s\u00e9cret"], "wrong"),
            (["Bearer \udcff"], "wrong"),
            (["Bearer secret", "Bearer secret"], "several"),
            (["Bearer secret", ""], "several"),
        ],
    )
    def test_wrong_headers_are_refused_with_the_reason(
        self, file: Path, headers: list[str], reason: str
    ) -> None:
        assert self.reason(with_token(file, b"secret"), headers) == reason

    def test_headers_without_the_token_are_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.touch(0o600)
        authenticator = with_token(file, b"secret")

        @given(st.text() | st.binary())
        def check(header: str | bytes) -> None:
            try:
                authenticator.authenticate([header])
            except UnauthenticatedError:
                return
            as_text = header if isinstance(header, str) else header.decode()
            assert as_text.split() == [as_text.split()[0], "secret"]

        check()

    def test_refusals_are_all_counted_and_sometimes_logged(
        self, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authenticator = with_token(file, b"secret")
        metrics = authenticator._metrics
        error = UnauthenticatedError("wrong")
        for _ in range(5):
            authenticator.record(error, "grpc", "peer")
        monkeypatch.setattr(authentication, "_LOG_SECONDS", 0.0)
        authenticator._next_line = 0.0
        authenticator.record(error, "grpc", "peer")
        counted = metrics.unauthenticated.labels("grpc", "wrong")._value.get()
        lines = [record.__dict__["fields"] for record in caplog.records]
        assert counted == 6
        assert [line["unlogged_before"] for line in lines] == [0, 4]
        assert caplog.records[0].levelno == logging.WARNING


class TestGrants:
    @pytest.mark.parametrize(
        ("more", "allowed"),
        [
            ("", {("predict", "a"), ("status", "b"), ("metrics", None)}),
            ("models = ['a']", {("predict", "a")}),
            ("models = []", set()),
            ("methods = ['predict']", {("predict", "a")}),
            ("methods = []", set()),
            ("models = ['b']\nmethods = ['status', 'predict']", {("status", "b")}),
        ],
    )
    def test_token_allows_only_its_models_and_methods(
        self, file: Path, more: str, allowed: set[tuple[str, str | None]]
    ) -> None:
        grant = with_tokens(file, TOKEN + more).authenticate(["Bearer secret"])
        for method, model in (("predict", "a"), ("status", "b"), ("metrics", None)):
            if (method, model) in allowed:
                grant.check(method, model)
                continue
            with pytest.raises(ServingError, match="the token 'a' does not allow") as refused:
                grant.check(method, model)
            assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
            assert refused.value.http_status == 403
