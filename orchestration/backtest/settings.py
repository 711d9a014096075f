"""Makes backtests from settings, and runs them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from orchestration.backtest import report
from orchestration.backtest.backtest import Backtest
from orchestration.backtest.strategy_names import CHALLENGE, REPLACE
from orchestration.backtest.strategy_table import metrics_of, show_strategies
from orchestration.local.history import RunRecord
from orchestration.local.nodes import begin
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import known_provenance
from orchestration.local.run import Following, run_locked
from orchestration.local.situation import prepare
from orchestration.outcome import Outcome
from pipeline.config import load_config
from pipeline.model import Model
from storage.directory import ModelDirectory
from terminal.tables import print_table


def make_backtests(
    directory: OutputDirectory,
    config_path: str | None,
    settings: Sequence[str],
    variants: Iterable[str],
    months: Sequence[int],
    console: Console,
) -> list[Backtest]:
    """Makes a backtest with some settings, and one for each variant of them.

    Args:
      directory: Output directory of the first; the variants have folders in it.
      config_path: Configuration file.
      settings: Settings over it.
      variants: Variants of the settings, see `parse_variant`.
      months: The months, oldest first.
      console: Where to show progress.

    Raises:
      UserError: If a configuration, the data of a month or a directory cannot be used.
      ValueError: If a variant cannot be parsed, or its name is taken.
    """
    backtests = [_make("base", directory, config_path, settings, months, console)]
    for variant in variants:
        name, changes = parse_variant(variant)
        if name in {backtest.name for backtest in backtests}:
            raise ValueError(f"--compare {variant!r}: the name {name!r} is taken")
        folder = OutputDirectory(directory.root / "compare" / name)
        backtests.append(_make(name, folder, config_path, [*settings, *changes], months, console))
    for backtest in backtests:
        backtest.check()
    return backtests


def parse_variant(text: str) -> tuple[str, list[str]]:
    """Reads `NAME:KEY=VALUE[,KEY=VALUE]...`; a comma inside a list does not end a value.

    Returns:
      The name, and the settings.

    Raises:
      ValueError: If it has another form.

    Examples:
      >>> parse_variant("short:data.window=3,training.epochs=8")
      ('short', ['data.window=3', 'training.epochs=8'])
    """
    name, _, settings = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or "=" not in settings:
        raise ValueError(
            f"{text!r}: NAME:KEY=VALUE[,KEY=VALUE] is expected, as in few:data.window=2"
        )
    return name, re.split(r",(?=[\w.]+=)", settings)


def _make(
    name: str,
    directory: OutputDirectory,
    config_path: str | None,
    settings: Sequence[str],
    months: Sequence[int],
    console: Console,
) -> Backtest:
    configs = {m: load_config(config_path, [*settings, f"data.as_of={m}"]) for m in months}
    model = Model.load(configs[months[0]])

    after = dict(itertools.pairwise(months))
    run_ids: dict[int, str] = {}

    def run_month(month: int) -> RunRecord:
        run_id = run_ids.get(month) or directory.new_run_id()
        ahead, later = None, after.get(month)
        if later:
            run_ids[later] = directory.new_run_id(after=run_id)
            ahead = Following(run_ids[later], configs[later])
        return run_locked(configs[month], directory, console, run_id=run_id, ahead=ahead)

    def served() -> tuple[int, str] | None:
        models = ModelDirectory(str(directory.serving), configs[months[0]].model_name)
        version = models.served()
        if not version:
            return None
        return version, str(known_provenance(models, version).get("run_key", ""))

    return Backtest(
        name=name,
        directory=directory,
        run_keys={m: prepare(configs[m], directory).situation.run_key for m in months},
        run_month=run_month,
        served=served,
        task=model.task,
        prepare=lambda: begin(directory.logs("backtest"), "backtest.log"),
        say=lambda text: console.print(Text(f"\n{text}", "bold")),
        time_column=model.time_column,
        challenger=configs[months[0]].challenger,
    )


def run_backtests(
    backtests: Sequence[Backtest],
    directory: OutputDirectory,
    console: Console,
    strategy: str = REPLACE,
) -> Outcome:
    """Runs backtests, and shows and writes their results.

    Args:
      backtests: The backtests.
      directory: Where to write.
      console: Where to show.
      strategy: CHALLENGE also shows what champion-challenger would have served.

    Returns:
      The outcome: FAILED if a run did not complete.

    Raises:
      UserError: See `Backtest.run`.
    """
    found = {backtest.name: backtest.run() for backtest in backtests}
    from orchestration.backtest.plot import draw

    metric = backtests[0].task.headline
    table, plot = directory.root / "backtest.csv", directory.root / "backtest.png"
    report.write_csv(found, table)
    draw(found, plot, metric)
    console.print()
    print_table(report.make_table(found, metric), console)
    for line in report.conclusion(found, metric):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"Written to {table} and {plot}"), soft_wrap=True)
    decided = all(month.is_decided for months in found.values() for month in months)
    if decided and strategy == CHALLENGE:
        played = {backtest.name: backtest.play(found[backtest.name]) for backtest in backtests}
        metrics = metrics_of(backtests[0].task, backtests[0].challenger.metric)
        show_strategies(played, metrics, directory.root / "strategies.csv", console)
    return Outcome.DECIDED if decided else Outcome.FAILED
