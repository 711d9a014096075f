"""Makes `diamonds.csv.gz` from the copy in the `plotnine` package; README.md describes it."""

import gzip
import importlib.metadata
from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(__file__).parent / "diamonds.csv.gz",
    help="File to write. Defaults to diamonds.csv.gz beside this script.",
)
def main(output: Path) -> None:
    """Write the prices of 53,940 diamonds as one gzipped CSV file.

    \b
    Example:
      python -m data.diamonds.make
    """
    # By its metadata: to import the package would import matplotlib and all the rest.
    source = importlib.metadata.distribution("plotnine").locate_file("plotnine/data/diamonds.csv")
    rows = Path(str(source)).read_bytes()
    output.write_bytes(gzip.compress(rows, 9, mtime=0))
    click.echo(f"{output}: {rows.count(bytes([10])) - 1:,} rows")


if __name__ == "__main__":
    main()
