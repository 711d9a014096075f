"""Measures what DataGate stops: samples that lack nothing but rows, and samples with a fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from benchmarks.common import report
from components.data_gate.gate import Gate
from components.data_gate.reading import hash_rows
from ml.chance import drift_by_chance
from ml.comparisons import Anomaly
from pipeline.config import load_config
from storage.parquet import open_file

_TRAINING_SAMPLE = 10_000
_CONFIG = load_config(settings=["model=flights"])

Fault = Callable[[pd.DataFrame], pd.DataFrame]


@click.command()
@click.option(
    "--month",
    "months",
    type=int,
    multiple=True,
    default=(201305, 201307, 201310, 201312),
    show_default=True,
)
@click.option(
    "--rows",
    "sizes",
    type=int,
    multiple=True,
    default=(50, 100, 200, 500, 1000),
    show_default=True,
    help="Rows of a sample.",
)
@click.option("--seeds", type=int, default=25, show_default=True, help="Samples of a size.")
@click.option("--fault-rows", type=int, default=200, show_default=True)
@click.option("--fault-seeds", type=int, default=5, show_default=True)
def main(
    months: tuple[int, ...],
    sizes: tuple[int, ...],
    seeds: int,
    fault_rows: int,
    fault_seeds: int,
) -> None:
    """Gates random samples of real months, with and without faults, and prints what is blocked.

    Each is compared with the window before its month, as if a model of that window were served.
    """
    cases = {month: Case.of_month(month) for month in months}
    _report_samples(cases, sizes, seeds)
    _report_months(cases)
    _report_faults(cases, fault_rows, fault_seeds)


@dataclass(frozen=True)
class Case:
    """A month and the window before it.

    Attributes:
      gate: The gate.
      rows: All rows of the month.
      window: About 10,000 rows of the window.
      served: Statistics of all rows of the window.
    """

    gate: Gate
    rows: pd.DataFrame
    window: pd.DataFrame
    served: statistics_pb2.DatasetFeatureStatisticsList

    @classmethod
    def of_month(cls, month: int) -> Case:
        """A month of the data that the configuration names; not the first."""
        config = _CONFIG
        limits = asdict(config.gate)
        schema = tfdv.load_schema_text(limits.pop("schema"))
        limits.pop("warn_only")
        spans = sorted(Path(config.data.uri).glob("span-*"))
        last = next(i for i, span in enumerate(spans) if span.name == f"span-{month}")
        before = [_read(s, schema) for s in spans[max(0, last - config.data.window) : last]]
        window = pd.concat(before, ignore_index=True)
        return cls(
            gate=Gate(schema=schema, features=config.features, task=config.make_task(), **limits),
            rows=_read(spans[last], schema),
            window=window.iloc[:: max(1, len(window) // _TRAINING_SAMPLE)],
            served=tfdv.generate_statistics_from_dataframe(window),
        )

    def sample(self, rows: int, seed: int) -> pd.DataFrame:
        """Some rows of the month, by chance."""
        return self.rows.sample(rows, random_state=seed).reset_index(drop=True)

    def blocking(self, rows: pd.DataFrame) -> list[Anomaly]:
        """Why the gate stops such rows."""
        new = tfdv.generate_statistics_from_dataframe(rows)
        _, found = self.gate.check_statistics("test", new, self.served)
        found += self.gate.check_repeated("test", hash_rows(rows), hash_rows(self.window))
        found += self.gate.check_rows("test", rows, self.window)
        return [anomaly for anomaly in found if anomaly.blocks(frozenset())]


def _read(span: Path, schema: schema_pb2.Schema) -> pd.DataFrame:
    """A month, as the splits of SpanExampleGen have it."""
    tables = [open_file(str(path)).read() for path in sorted(span.glob("*.parquet"))]
    frame = pa.concat_tables(tables).to_pandas()
    frame["time_hour"] = frame["time_hour"].astype("int64") // 10**9
    return frame[[feature.name for feature in schema.feature]]


def _report_samples(cases: dict[int, Case], sizes: tuple[int, ...], seeds: int) -> None:
    rows, data, reasons = [], [], Counter[str]()
    for size in sizes:
        blocked = []
        for month, case in cases.items():
            found = [case.blocking(case.sample(size, seed)) for seed in range(seeds)]
            reasons.update(f"{a.feature}:{a.type}" for f in found for a in f)
            blocked.append(sum(map(bool, found)))
            data.append({"rows": size, "month": month, "blocked": blocked[-1], "of": seeds})
        every = sum(blocked) / (seeds * len(cases))
        rows.append([f"{size:,}", *(f"{count} of {seeds}" for count in blocked), f"{every:.1%}"])
    share = sum(entry["blocked"] for entry in data) / sum(entry["of"] for entry in data)
    by = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    notes = f"Of all samples {share:.2%} are blocked{by and f', by {by}'}."
    report("gate-samples", ["random rows", *map(str, cases), "all"], rows, data, notes)


def _report_months(cases: dict[int, Case]) -> None:
    rows, data = [], []
    for month, case in cases.items():
        blocking = case.blocking(case.rows)
        new = tfdv.generate_statistics_from_dataframe(case.rows)
        granted = {
            kind: max(
                (
                    (drift_by_chance(feature, 0.0, new, case.served), feature.name)
                    for feature in case.gate.schema.feature
                    if feature.drift_comparator.HasField(kind)
                ),
                default=(0.0, ""),
            )
            for kind in ("infinity_norm", "jensen_shannon_divergence")
        }
        verdict = "; ".join(map(str, blocking)) or "passes"
        shown = [f"{value:.3f} ({name})" for value, name in granted.values()]
        rows.append([str(month), f"{len(case.rows):,}", verdict, *shown])
        data.append({"month": month, "verdict": verdict, "granted": granted})
    columns = ["month", "rows", "verdict", "most granted, L-infinity", "Jensen-Shannon"]
    report("gate-months", columns, rows, data)


def _report_faults(cases: dict[int, Case], size: int, seeds: int) -> None:
    rows, data = [], []
    for name, fault in FAULTS.items():
        cells = []
        for month, case in cases.items():
            samples = (case.sample(size, seed) for seed in range(seeds))
            cells.append(sum(bool(case.blocking(fault(sample))) for sample in samples))
            data.append({"fault": name, "month": month, "blocked": cells[-1], "of": seeds})
        whole = sum(bool(case.blocking(fault(case.rows))) for case in cases.values())
        rows.append([name, *(f"{count} of {seeds}" for count in cells), f"{whole} of {len(cases)}"])
    columns = ["fault", *(f"{month}, {size} rows" for month in cases), "whole months"]
    report("gate-faults", columns, rows, data)


def _convert(column: str, change: Callable[[pd.Series], pd.Series]) -> Fault:
    return lambda rows: rows.assign(**{column: change(rows[column])})


def _scale(column: str, factor: float) -> Fault:
    return _convert(column, partial(pd.Series.mul, other=factor))


def _celsius(values: pd.Series) -> pd.Series:
    return (values - 32) / 1.8


def _minutes(clock: pd.Series) -> pd.Series:
    return clock // 100 * 60 + clock % 100


def _shift_all(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = [name for name in _CONFIG.features if pd.api.types.is_numeric_dtype(rows[name])]
    return rows.assign(**{name: rows[name] + rows[name].std() for name in numbers})


def _shuffle(values: pd.Series) -> pd.Series:
    return pd.Series(np.random.default_rng(7).permutation(values), values.index)


FAULTS: dict[str, Fault] = {
    "temp in °C": _convert("temp", _celsius),
    "dewp in °C": _convert("dewp", _celsius),
    "humid 0 to 1": _scale("humid", 0.01),
    "wind_dir in radians": _scale("wind_dir", np.pi / 180),
    "wind_speed in m/s": _scale("wind_speed", 0.44704),
    "wind_speed in km/h": _scale("wind_speed", 1.609),
    "wind_gust in m/s": _scale("wind_gust", 0.44704),
    "precip in mm": _scale("precip", 25.4),
    "pressure in inHg": _scale("pressure", 0.02953),
    "visib in km": _scale("visib", 1.609),
    "distance in km": _scale("distance", 1.609),
    "sched_dep_time in minutes": _convert("sched_dep_time", _minutes),
    "sched_arr_time in minutes": _convert("sched_arr_time", _minutes),
    "no rows of UA": lambda rows: rows[rows["carrier"] != "UA"].reset_index(drop=True),
    "UA renamed to U2": _convert("carrier", lambda values: values.replace("UA", "U2")),
    "all numbers a deviation higher": _shift_all,
    "labels inverted": _convert(_CONFIG.label, lambda late: 1 - late),
    "labels shuffled": _convert(_CONFIG.label, _shuffle),
}


if __name__ == "__main__":
    main()
