"""The settings of the search for better settings, and the check of its ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.free_tables import like
from pipeline.network_config import TrainingConfig
from pipeline.setting_types import CHECKED, Count, NetworkSettings, Switch

_Number = Annotated[float, Field(allow_inf_nan=False)]
# Loss and class weights change what is learned, and the Pruner learns it too; a seed is chance.
_TRAINING = ("epochs", "batch_size", "learning_rate", "dropout", "l2", "patience")
_EXAMPLE = "training.learning_rate = { low = 1e-4, high = 1e-2, log = true }"


@dataclass(frozen=True, config=CHECKED)
class Range:
    """The values that a search may give a setting.

    Attributes:
      low: Smallest value.
      high: Largest value.
      log: Whether all orders of magnitude between them are as likely, instead of all values.
      choices: The values, if they are not those from `low` to `high`.
    """

    low: _Number | None = None
    high: _Number | None = None
    log: Switch = False
    choices: tuple[_Number | str, ...] = ()

    def problem(self) -> str:
        """What is wrong with the range itself; "" for nothing."""
        ends = [end for end in (self.low, self.high) if end is not None]
        if self.choices:
            if ends or self.log:
                return "choices do not go with low, high and log"
            return ""
        if self.low is None or self.high is None:
            return "low and high are expected, or choices"
        if self.low >= self.high:
            return f"the range is empty: low = {self.low!r} is not below high = {self.high!r}"
        if self.log and self.low <= 0:
            return f"low = {self.low:g}: above 0 is expected where log is true"
        return ""

    @property
    def values(self) -> Mapping[str, _Number | str]:
        """The values that stand in it, by what they are called in messages."""
        if self.choices:
            return {f"choices[{i}]": value for i, value in enumerate(self.choices)}
        return {"low": self.low or 0.0, "high": self.high or 0.0}


@dataclass(frozen=True, config=CHECKED)
class TuningConfig:
    """The search for better settings before the training; see [tuning.md](tuning.md).

    Attributes:
      trials: Combinations of settings to try, the first of which is the configured one; 0 for no
        search.
      space: The settings to try, and their ranges, by key: those of `training` but `loss`,
        `class_weights`, `seed`, `warm_start` and `rows_in_memory`, and those of `network`.
      parallel: Trials that are chosen together and run side by side, as many at a time as there are
        cores. What is found depends on this number, and not on the cores.
      sample_rows: Rows of `train` that a trial begins with. The better third goes on with three
        times as many, and so on up to all rows; 0 always takes all.
      finalists: Best trials that are trained with two other seeds, as is the first one; the best
        mean decides. 0 for none: the best trial decides.
      trial_minutes: Time after which a training of a trial is stopped and counts as failed.
    """

    trials: Annotated[int, Field(ge=0, le=10_000)] = 0
    space: dict[str, Range] = field(default_factory=dict)
    parallel: Annotated[int, Field(ge=1, le=256)] = 4
    sample_rows: Count = 4000
    finalists: Count = 2
    trial_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 365)] = 30.0

    def check(self, network: NetworkSettings) -> None:
        """Checks that each range is one of a setting that can be tried, and of its type.

        Args:
          network: The settings of the model's network.

        Raises:
          ValueError: If it is not; the message begins with the key.
        """
        known = known_settings(network)
        for key, given in self.space.items():
            place = f"tuning.space.{key}"
            if key not in known:
                raise ValueError(f"{place}: no setting to try; they are {', '.join(known)}")
            if problem := given.problem():
                raise ValueError(f"{place}: {problem}")
            typed = set()
            for name, value in given.values.items():
                try:
                    typed.add(_typed(key, value, network))
                except ValueError as error:
                    raise ValueError(f"{place}.{name} = {value!r}: {error}") from error
            if len(typed) < max(2, len(given.values)):
                raise ValueError(f"{place}.choices: two or more different values are expected")
        if self.trials and not self.space:
            raise ValueError(
                f"tuning.trials = {self.trials}: there is no setting to try; name some below "
                f"[tuning.space], as in {_EXAMPLE}"
            )

    def distributions(self, network: NetworkSettings) -> dict[str, dict[str, Any]]:
        """The ranges by key, for the Tuner: `low`, `high` and `log`, or `choices`.

        Bounds and choices have the type of the setting: a whole number is an integer.
        """
        ranges: dict[str, dict[str, Any]] = {}
        for key, given in self.space.items():
            values = [_typed(key, value, network) for value in given.values.values()]
            if given.choices:
                ranges[key] = {"choices": values}
            else:
                ranges[key] = {"low": values[0], "high": values[1], "log": given.log}
        return ranges


def known_settings(network: Iterable[str]) -> list[str]:
    """The keys of the settings that a search may change, with those of the model's network."""
    return [f"training.{name}" for name in _TRAINING] + [f"network.{name}" for name in network]


def _typed(key: str, value: float | str, network: NetworkSettings) -> int | float | str:
    """A value of a range in the type of the setting.

    Raises:
      ValueError: If the setting does not allow it.
    """
    table, _, name = key.partition(".")
    if table == "network":
        return like(network[name], value)
    try:
        checked = TrainingConfig(**{name: value})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error
    typed: int | float | str = getattr(checked, name)
    return typed
