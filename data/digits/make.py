"""Makes `digits.parquet` from scikit-learn's handwritten digits; README.md describes it."""

from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow_hotfix  # noqa: F401  See storage/parquet.py.
from scipy import ndimage
from sklearn.datasets import load_digits

SMALL, LARGE = 8, 28
ROW_GROUP_ROWS = 512


def scale(images: np.ndarray) -> np.ndarray:
    """Scales images to 28 by 28 pixels, bilinearly.

    Args:
      images: Grey values 0 to 16, shape [images, 8, 8].

    Returns:
      uint8 grey values 0 to 255, shape [images, 784], row by row.
    """
    zoomed = ndimage.zoom(images, (1, LARGE / SMALL, LARGE / SMALL), order=1, grid_mode=False)
    return np.rint(zoomed * (255 / 16)).astype(np.uint8).reshape(len(images), LARGE * LARGE)


@click.command()
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(__file__).parent / "digits.parquet",
    help="File to write. Defaults to digits.parquet beside this script.",
)
def main(output: Path) -> None:
    """Write 1,797 handwritten digits as one Parquet file.

    \b
    Example:
      python -m data.digits.make
    """
    digits = load_digits()
    pixels = scale(digits.images)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), LARGE * LARGE)
    table = pa.table({"image": vectors, "digit": pa.array(digits.target, pa.int64())})
    pq.write_table(table, output, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    click.echo(f"{output}: {len(table):,} rows")


if __name__ == "__main__":
    main()
