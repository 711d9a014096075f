"""Tests of the model t_penguins: its schema, its preprocessing, and its forms for servers and devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.trial import Trial


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """The model after a short training on some rows of its data."""
    return Trial.make("t_penguins", tmp_path_factory.mktemp("trial"))


def test_schema_has_no_complaint_about_the_data(trial: Trial) -> None:
    assert trial.anomalies() == {}


def test_preprocessing_makes_finite_numbers_of_rows_without_any_value(trial: Trial) -> None:
    for name, values in trial.transform(trial.empty_rows()).items():
        assert np.isfinite(values).all(), name


def test_preprocessing_makes_finite_numbers_of_extreme_values(trial: Trial) -> None:
    for name, values in trial.transform(trial.extreme_rows()).items():
        assert np.isfinite(values).all(), name


def test_signatures_of_the_saved_model_agree(trial: Trial) -> None:
    examples, features = trial.by_examples(), trial.by_features()
    np.testing.assert_allclose(examples, features, rtol=1e-5, atol=1e-6)
    assert np.isfinite(examples).all()


def test_model_for_devices_agrees_with_the_saved_model(trial: Trial) -> None:
    np.testing.assert_allclose(trial.on_device(), trial.by_examples(), rtol=1e-3, atol=1e-3)
