"""Compares the time of every node with its stock TFX equivalent, on the same rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.common import Measured, node_seconds, report, run_measured
from orchestration.local.model_directories import list_directories

# Ours and stock; nodes that only one of the two has are shown and not compared.
_PAIRS = (
    ("SpanExampleGen", "CsvExampleGen"),
    ("StatisticsGen", "StatisticsGen"),
    ("Transform", "Transform"),
    ("Trainer", "Trainer"),
    ("Evaluator", "Evaluator"),
    ("ExampleValidator", "ExampleValidator"),
    ("ImportSchemaGen", "ImportSchemaGen"),
    ("Pusher", "Pusher"),
)


@click.command()
@click.option("--window", default=11, show_default=True, help="Months to learn from.")
def main(window: int) -> None:
    """Runs both pipelines on all twelve months, one after the other, and prints node by node."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        stock = run_measured(
            [
                "-m",
                "benchmarks.stock_pipeline",
                f"--window={window}",
                f"--output={output / 'stock'}",
            ]
        )
        ours = run_measured(
            ["local_runner.py", "run", f"--window={window}", f"--output={output / 'ours'}"],
            allowed=(0, 4),
        )
        stock_nodes = node_seconds(output / "stock" / "metadata.sqlite")
        (directory,) = list_directories(output / "ours")
        our_nodes = node_seconds(directory.metadata)
    rows, totals = [], [0.0, 0.0]
    for our_name, stock_name in _PAIRS:
        seconds = our_nodes[our_name], stock_nodes[stock_name]
        totals = [total + second for total, second in zip(totals, seconds, strict=True)]
        rows.append(
            _row(f"{our_name} / {stock_name}" if our_name != stock_name else our_name, *seconds)
        )
    rows.append(_row("nodes that both have", *totals))
    for name in sorted(our_nodes.keys() - {pair[0] for pair in _PAIRS}):
        rows.append([f"{name} (ours alone)", f"{our_nodes[name]:.1f}", "", ""])
    rows.append(_row("whole command", ours.seconds, stock.seconds))
    rows.append(["peak memory, GB", _gigabytes(ours), _gigabytes(stock), ""])
    data = {
        "window": window,
        "ours": {"nodes": our_nodes, "seconds": ours.seconds, "peak_bytes": ours.peak_bytes},
        "stock": {"nodes": stock_nodes, "seconds": stock.seconds, "peak_bytes": stock.peak_bytes},
    }
    report("stock", ["seconds", "ours", "stock TFX", "stock / ours"], rows, data)


def _row(name: str, ours: float, stock: float) -> list[str]:
    return [name, f"{ours:.1f}", f"{stock:.1f}", f"{stock / ours:.1f} x" if ours else ""]


def _gigabytes(measured: Measured) -> str:
    return f"{measured.peak_bytes / 1e9:.2f}"


if __name__ == "__main__":
    main()
