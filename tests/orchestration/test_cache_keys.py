"""When code, files, settings or data change, so do the digests of what depends on them alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import UserError
from orchestration.cache_keys import CodeVersion

GENERIC, USER, SCHEMA = "window: 6", "run_fn: user.model.run_fn", "schema_file: {schema}"


@pytest.fixture
def code(tmp_path: Path) -> CodeVersion:
    for name in ("generic/a.py", "user/model.py", "schema.pbtxt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return CodeVersion(tmp_path / "generic", tmp_path / "user", (str(tmp_path / "schema.pbtxt"),))


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        ("generic/a.py", {GENERIC, USER, SCHEMA}),
        ("generic/new.py", {GENERIC, USER, SCHEMA}),
        ("user/model.py", {USER}),
        ("schema.pbtxt", {SCHEMA}),
        ("generic/notes.txt", set()),
    ],
)
def test_a_change_reaches_the_nodes_that_depend_on_it(
    code: CodeVersion, tmp_path: Path, changed: str, affected: set[str]
) -> None:
    def versions() -> dict[str, str]:
        schema = tmp_path / "schema.pbtxt"
        return {node: code(node.format(schema=schema)) for node in (GENERIC, USER, SCHEMA)}

    before, key = versions(), code.run_key({}, "data")
    (tmp_path / changed).write_text("changed")
    after = versions()
    assert {node for node in before if before[node] != after[node]} == affected
    assert (code.run_key({}, "data") != key) == bool(affected)


def test_a_run_is_another_with_other_settings_or_other_data(code: CodeVersion) -> None:
    keys = [code.run_key({"window": 6}, "a"), code.run_key({"window": 6}, "b")]
    keys.append(code.run_key({"window": 5}, "a"))
    assert len(set(keys)) == 3
    assert code.run_key({"window": 6}, "a") == keys[0]


def test_a_file_that_is_not_there_is_named(code: CodeVersion, tmp_path: Path) -> None:
    (tmp_path / "schema.pbtxt").unlink()
    with pytest.raises(UserError, match=r"schema\.pbtxt cannot be read: No such file"):
        code.run_key({}, "data")
