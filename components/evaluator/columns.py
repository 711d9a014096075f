"""A TFMA evaluator that computes metrics by columns, where stock TFMA goes row by row."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma

# Not public in TFMA, but its own evaluator uses them: the keys of configured metrics, the check of
# thresholds, and the type of a value with an interval.
from tensorflow_model_analysis.api.types import ValueWithTDistribution
from tensorflow_model_analysis.evaluators import metrics_validator
from tensorflow_model_analysis.metrics import metric_specs

from components.evaluator import regression_metrics
from components.evaluator.slices import SliceKey, rows_by_slice
from ml.bootstrap import poisson_counts
from ml.tallies import Counter, Problem, Sum, Tally
from ml.task_metrics import METRICS, Metric
from storage.errors import DataError

# Bootstrap replicates per interval. They estimate a standard error to within 11%, which the
# t-distribution takes into account.
REPLICATES = 40
# Key of an extract: the record batch of the columns that an evaluation reads.
COLUMNS = "columns"
# TFMA's key and text of the reason why a slice has no metrics.
_ERROR = "__ERROR__"
_TOO_SMALL = (
    "Example count for this slice key is lower than the minimum required value: {}. "
    "No data is aggregated for this slice."
)

_Metrics = dict[Any, Any]


class _Configured:
    """A metric of a configuration: its key, and the problems that it averages over."""

    def __init__(self, key: Any, metric: Metric, classes: dict[int, float]):
        self.key, self.metric = key, metric
        only = Problem(key.model_name, key.sub_key.class_id if key.sub_key else None)
        self.problems = {
            Problem(key.model_name, number): share for number, share in classes.items()
        } or {only: 1.0}

    def value(self, counter: Counter, tally: Tally) -> np.ndarray:
        """The value in the data and in each bootstrap replicate, [1 + replicates].

        An average leaves out the classes of which it is undefined, where stock TFMA takes 0.
        """
        values = np.array([self.metric.value(counter, tally, p) for p in self.problems])
        shares = np.array(list(self.problems.values()))[:, None] * np.isfinite(values)
        with np.errstate(invalid="ignore"):
            return np.asarray((np.nan_to_num(values) * shares).sum(axis=0) / shares.sum(axis=0))


def supports(config: tfma.EvalConfig) -> bool:
    """Whether all metrics of a configuration can be computed by columns.

    Args:
      config: With TFMA's defaults filled in.
    """
    labels = {spec.label_key for spec in config.model_specs}
    weights = {spec.example_weight_key for spec in config.model_specs}
    options = config.options
    intervals = options.confidence_intervals
    plain = (
        len(labels) == len(weights) == 1
        and "" not in labels
        and not any(
            spec.label_keys
            or spec.prediction_key
            or spec.prediction_keys
            or spec.example_weight_keys
            for spec in config.model_specs
        )
        and not config.cross_slicing_specs
        and not any(spec.slice_keys_sql for spec in config.slicing_specs)
        and options.HasField("include_default_metrics")
        and not options.include_default_metrics.value
        and not options.disabled_outputs.values
        and (
            not options.compute_confidence_intervals.value
            or intervals.method == intervals.POISSON_BOOTSTRAP
        )
    )
    return plain and all(_supports_spec(spec) for spec in config.metrics_specs)


def _supports_spec(spec: tfma.MetricsSpec) -> bool:
    return not (
        spec.query_key
        or spec.output_names
        or spec.output_weights
        or spec.thresholds
        or spec.per_slice_thresholds
        or spec.cross_slice_thresholds
        or spec.example_weights.unweighted
        or spec.binarize.k_list.values
        or spec.binarize.top_k_list.values
        or spec.aggregate.top_k_list.values
        or spec.aggregate.micro_average
        or spec.aggregate.weighted_macro_average
        or any(
            metric.class_name not in METRICS
            or metric.module not in ("", regression_metrics.__name__)
            or metric.cross_slice_thresholds
            or json.loads(metric.config or "{}").keys() - {"name"}
            for metric in spec.metrics
        )
    )


def make_evaluator(config: tfma.EvalConfig, run_after: str) -> Any:
    """Makes the Evaluator.

    It reads extracts of a batch of rows: serialized examples (`input`), encoded labels (`labels`),
    predictions by model name, and the record batch of `columns` with weights and the columns to
    slice by.

    Args:
      config: With TFMA's defaults filled in; `supports` holds.
      run_after: Stage of the extractor that makes the extracts.

    Returns:
      A `tfma.evaluators.Evaluator`.
    """
    return tfma.evaluators.Evaluator(
        stage_name="EvaluateByColumns", run_after=run_after, ptransform=_Evaluate(config)
    )


class _Evaluate(beam.PTransform):
    def __init__(self, config: tfma.EvalConfig):
        super().__init__()
        self._config = config

    def expand(self, extracts: beam.PCollection) -> dict[str, beam.PCollection]:
        metrics = (
            extracts
            | "Count" >> beam.ParDo(_Count(self._config))
            | "Add" >> beam.CombinePerKey(AddTallies())
            | "Compute" >> beam.ParDo(_Compute(self._config))
        )
        validations = metrics | "Validate" >> beam.Map(
            metrics_validator.validate_metrics, self._config
        )
        return {tfma.METRICS_KEY: metrics, tfma.VALIDATIONS_KEY: validations}


class _Count(beam.DoFn):
    """Counts the rows of a batch by slice."""

    def __init__(self, config: tfma.EvalConfig):
        self._config = config
        overall = tfma.EvalConfig(slicing_specs=[{}])
        self._specs = list((config if config.slicing_specs else overall).slicing_specs)
        self._weight = config.model_specs[0].example_weight_key
        self._replicates = REPLICATES if config.options.compute_confidence_intervals.value else 0

    def setup(self) -> None:
        """Lists what to count."""
        _, self._counter = _configured(self._config)

    def process(self, extracts: dict[str, Any]) -> Iterator[tuple[SliceKey, Tally]]:
        """Counts a batch."""
        batch = extracts[COLUMNS]
        weights = np.ones((batch.num_rows, 1 + self._replicates))
        if self._replicates:
            weights[:, 1:] = poisson_counts(extracts[tfma.INPUT_KEY], self._replicates)
        if self._weight:
            weights *= numbers(batch, self._weight)[:, None]
        yield from self._counter.count(
            extracts[tfma.LABELS_KEY],
            extracts[tfma.PREDICTIONS_KEY],
            weights,
            rows_by_slice(batch, self._specs),
        )


class _Compute(beam.DoFn):
    """Computes the metrics of a slice."""

    def __init__(self, config: tfma.EvalConfig):
        self._config = config
        self._min_rows = config.options.min_slice_size.value
        self._baseline = next((s.name for s in config.model_specs if s.is_baseline), None)

    def setup(self) -> None:
        """Lists what to compute."""
        self._metrics, self._counter = _configured(self._config)

    def process(self, item: tuple[SliceKey, Tally]) -> list[tuple[SliceKey, _Metrics]]:
        """Computes the metrics and their differences from the baseline's."""
        key, tally = item
        if key and tally.rows < self._min_rows:
            return [(key, {_ERROR: _TOO_SMALL.format(self._min_rows)})]
        values = {m.key: (m.value(self._counter, tally), m.metric) for m in self._metrics}
        results = {key: _with_interval(*value) for key, value in values.items()}
        for own, (value, metric) in values.items():
            base = own.make_baseline_key(self._baseline) if self._baseline else own
            if base != own and base in values:
                change = value - values[base][0]
                results[own.make_diff_key()] = _with_interval(change, metric)
        return [(key, results)]


def _with_interval(values: np.ndarray, metric: Metric) -> Any:
    value, replicates = float(values[0]), values[1:]
    replicates = replicates[np.isfinite(replicates)]
    if not metric.bootstrapped or len(replicates) < 2:
        return value
    deviation = float(np.std(replicates, ddof=1))
    return ValueWithTDistribution(value, deviation, len(replicates) - 1, value)


class AddTallies(beam.CombineFn):
    """Adds the tallies of a slice, each as it comes.

    Beam would gather those of ten batches of every slice before it calls a function that adds.
    """

    def create_accumulator(self) -> Tally | None:
        """Nothing."""
        return None

    def add_input(self, accumulator: Tally | None, tally: Tally) -> Tally:
        """Adds a tally."""
        return tally if accumulator is None else accumulator + tally

    def merge_accumulators(self, accumulators: Iterable[Tally | None]) -> Tally | None:
        """Adds several sums."""
        total = None
        for tally in accumulators:
            if tally is not None:
                total = self.add_input(total, tally)
        return total

    def extract_output(self, accumulator: Tally | None) -> Tally | None:
        """The sum."""
        return accumulator


def numbers(batch: Any, name: str) -> np.ndarray:
    """A column with one number in each row, float64 [rows]."""
    index = batch.schema.get_field_index(name)
    values = batch.column(index).flatten() if index >= 0 else pa.array([])
    if len(values) != batch.num_rows:
        raise DataError(
            f"{name!r} has {len(values):,} values in {batch.num_rows:,} rows; one in each is needed"
        )
    try:
        return np.asarray(values.to_numpy(zero_copy_only=False), float)
    except ValueError as error:
        raise DataError(f"{name!r} holds {values.type}; numbers are needed") from error


def _configured(config: tfma.EvalConfig) -> tuple[list[_Configured], Counter]:
    """The metrics of a configuration, and the counts that they need."""
    metrics = []
    for spec in config.metrics_specs:
        classes = dict(spec.aggregate.class_weights)
        for key, metric, _ in metric_specs.keys_and_metrics_from_specs(config, [spec]):
            averaged = classes if key.aggregation_type else {}
            metrics.append(_Configured(key, METRICS[metric.class_name], averaged))
    needs: dict[Problem, frozenset[Sum]] = defaultdict(frozenset)
    for configured in metrics:
        for problem in configured.problems:
            needs[problem] |= configured.metric.needs
    return metrics, Counter(needs)
