"""The check of a model's schema against its task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, ConfigError, EvaluationConfig, MonitorConfig, load_config
from pipeline.schema_checks import check_schema


def config_of(folder: Path, schema: str, **settings: Any) -> Config:
    path = folder / "schema.pbtxt"
    path.write_text(schema)
    config = load_config()
    gate = replace(config.gate, schema=str(path))
    given = {"features": ("a",), "label": "y", "slices": (), **settings}
    return replace(config, gate=gate, **given)


def feature(name: str, kind: str, width: int = 1) -> str:
    return f'feature {{ name: "{name}" type: {kind} shape {{ dim {{ size: {width} }} }} }}\n'


A = feature("a", "FLOAT")
# What the tests' model sets for its own task.
UNSET: dict[str, Any] = {
    "class_names": (), "evaluation": EvaluationConfig(), "monitor": MonitorConfig()
}  # fmt: skip
REGRESSION: dict[str, Any] = {"task": "regression", **UNSET}
SPECIES: dict[str, Any] = {"task": "multiclass", "classes": ("Adelie", "Gentoo"), **UNSET}


@pytest.mark.parametrize(
    ("schema", "settings", "problem"),
    [
        (feature("y", "INT"), {}, "features: the schema .* has no feature a"),
        (A + feature("y", "INT"), {"slices": ("a", "b")}, "slices: the schema .* has no feature b"),
        (A, {}, "label = 'y': the schema has no such feature"),
        (A + feature("y", "BYTES"), REGRESSION, "BYTES; a regression needs FLOAT or INT"),
        (A + feature("y", "INT"), SPECIES, r"INT, the classes are text \(Adelie, Gentoo\); BYTES"),
        (A + feature("y", "INT", 3), {}, "a row has several values; a label is one"),
        (
            A + feature("y", "FLOAT"),
            {"classes": ("1073741824", "1073741825"), **UNSET},
            "FLOAT, whose 32 bits do not tell the classes 1073741824, 1073741825 apart; INT",
        ),
        (A + feature("y", "INT"), {"example_weight": "w"}, "example_weight = 'w': the schema"),
        (
            A + feature("y", "INT") + feature("w", "BYTES"),
            {"example_weight": "w"},
            "as one INT or FLOAT a row",
        ),
    ],
)
def test_check_schema_refuses_a_schema_that_does_not_fit_the_task(
    tmp_path: Path, schema: str, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_schema(config_of(tmp_path, schema, **settings))


@pytest.mark.parametrize(
    ("schema", "settings"),
    [
        (A + feature("y", "INT"), {}),
        (A + feature("y", "BYTES"), {}),
        (A + feature("y", "FLOAT"), REGRESSION),
        (A + feature("y", "INT"), REGRESSION),
        (A + feature("y", "BYTES"), SPECIES),
        (A + feature("y", "INT") + feature("w", "FLOAT"), {"example_weight": "w"}),
        ("no schema at all", {}),
    ],
)
def test_check_schema_passes_what_fits(
    tmp_path: Path, schema: str, settings: dict[str, Any]
) -> None:
    check_schema(config_of(tmp_path, schema, **settings))


def test_check_schema_passes_the_schema_of_the_model() -> None:
    check_schema(load_config())
