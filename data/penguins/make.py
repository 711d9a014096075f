"""Makes `penguins.csv` from the `palmerpenguins` package; README.md says what is in it."""

import importlib.resources
from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(__file__).parent / "penguins.csv",
    help="File to write. Defaults to penguins.csv beside this script.",
)
def main(output: Path) -> None:
    """Write the penguins of the Palmer Archipelago as one CSV file.

    \b
    Example:
      python -m data.penguins.make
    """
    source = importlib.resources.files("palmerpenguins") / "data" / "penguins.csv"
    output.write_bytes(source.read_bytes())
    click.echo(f"{output}: {len(output.read_text().splitlines()) - 1} rows")


if __name__ == "__main__":
    main()
