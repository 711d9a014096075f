"""Tests that the committed spans are what the script makes of the source, and leak no outcome."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from data.flights import make_spans
from pipeline.config import load_config
from storage.spans import find_spans

FLIGHTS = Path(make_spans.__file__).parent
ALL_FLIGHTS = 336_776
LABELLED_FLIGHTS = 327_346

KNOWN_AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
FLIGHT_KEY = ["month", "day", "sched_dep_time", "carrier", "flight"]


def span_file(month: str) -> Path:
    return FLIGHTS / f"span-{month}" / "flights.parquet"


def row_group_sizes(file: Path) -> list[int]:
    metadata = pq.read_metadata(file)
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


@pytest.fixture(scope="module")
def source() -> pd.DataFrame:
    """The source's own flights, untouched by the script."""
    return make_spans.read_source("flights.csv.zip")


def test_find_spans_reads_the_committed_months_next_to_their_script() -> None:
    assert [span.number for span in find_spans(load_config().data.source)] == list(
        range(201301, 201313)
    )


@pytest.fixture(scope="module")
def weather() -> pd.DataFrame:
    """The source's own weather, without the hour of autumn that New York's clocks show twice."""
    weather = make_spans.read_source("weather.csv")
    return weather.drop_duplicates(["origin", *make_spans.LOCAL_HOUR], keep=False)


@pytest.fixture(scope="module")
def year() -> pd.DataFrame:
    """All twelve committed spans, in order."""
    spans = [pq.read_table(span_file(month)) for month in make_spans.MONTHS]
    return pa.concat_tables(spans).to_pandas()


@pytest.fixture(scope="module")
def beside_source(year: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """Every committed row with the outcome that the source records for that flight."""
    outcomes = source[FLIGHT_KEY + KNOWN_AFTER_DEPARTURE]
    return year.merge(outcomes, how="left", on=FLIGHT_KEY, validate="one_to_one")


@pytest.fixture(scope="module")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the command line has written November alone."""
    output = tmp_path_factory.mktemp("spans")
    arguments = ["--output", str(output), "--month", "201311"]
    result = CliRunner().invoke(make_spans.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return output


def test_span_made_again_equals_the_committed_span(made_again: Path) -> None:
    again, committed = made_again / "span-201311" / "flights.parquet", span_file("201311")
    assert [folder.name for folder in made_again.iterdir()] == ["span-201311"]
    assert pq.read_schema(again).equals(pq.read_schema(committed), check_metadata=True)
    assert pq.read_table(again).equals(pq.read_table(committed))
    assert row_group_sizes(again) == row_group_sizes(committed)


def test_span_made_again_has_the_committed_bytes(made_again: Path) -> None:
    again, committed = made_again / "span-201311" / "flights.parquet", span_file("201311")
    if pq.read_metadata(again).created_by != pq.read_metadata(committed).created_by:
        pytest.skip("the committed spans come from another version of pyarrow")
    assert again.read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("month", make_spans.MONTHS)
def test_span_has_the_common_schema_and_row_groups(month: str) -> None:
    assert pq.read_schema(span_file(month)).equals(make_spans.SCHEMA, check_metadata=True)
    *full, last = row_group_sizes(span_file(month))
    assert set(full) == {make_spans.ROW_GROUP_ROWS}
    assert 0 < last <= make_spans.ROW_GROUP_ROWS


@pytest.mark.parametrize("month", make_spans.MONTHS)
def test_span_holds_its_month_of_new_york_sorted_by_time(month: str) -> None:
    span = pq.read_table(span_file(month)).to_pandas()
    local = span["time_hour"].dt.tz_convert("America/New_York")
    assert span["time_hour"].is_monotonic_increasing
    assert (local.dt.strftime("%Y%m") == month).all()
    assert (local.dt.day == span["day"]).all()
    assert (local.dt.hour == span["sched_dep_time"] // 100).all()
    assert (local.dt.strftime("%u").astype(int) == span["day_of_week"]).all()


def test_sort_key_orders_every_flight(year: pd.DataFrame) -> None:
    assert not year.duplicated(make_spans.SORT_KEY).any()


def test_span_integers_are_never_absent(year: pd.DataFrame) -> None:
    integers = [field.name for field in make_spans.SCHEMA if pa.types.is_integer(field.type)]
    assert len(integers) == 7
    assert (year[integers].dtypes == "int64").all()  # pandas turns integers with nulls into floats


def test_span_has_no_column_known_only_after_departure(year: pd.DataFrame) -> None:
    assert not set(KNOWN_AFTER_DEPARTURE) & set(year.columns)


def test_span_has_no_feature_that_follows_the_outcome(beside_source: pd.DataFrame) -> None:
    features = [name for name in make_spans.SCHEMA.names if name != "late"]
    numbers = beside_source[features].select_dtypes("number")
    for delay in ("dep_delay", "arr_delay"):
        assert numbers.corrwith(beside_source[delay]).abs().max() < 0.3
    for outcome in KNOWN_AFTER_DEPARTURE:
        assert numbers.eq(beside_source[outcome], axis="index").mean().max() < 0.1


def test_label_late_means_fifteen_minutes_or_more(beside_source: pd.DataFrame) -> None:
    assert beside_source["arr_delay"].notna().all()
    assert beside_source["arr_delay"].isin([14, 15]).any()
    assert (beside_source["late"] == (beside_source["arr_delay"] >= 15)).all()


def test_span_counts_every_flight_as_a_row_or_left_out() -> None:
    flights = make_spans.read_flights()
    counts = [make_spans.count_span(flights, month) for month in make_spans.MONTHS]
    committed = [pq.read_metadata(span_file(month)).num_rows for month in make_spans.MONTHS]
    assert [count.rows for count in counts] == committed
    assert sum(count.rows for count in counts) == LABELLED_FLIGHTS
    assert sum(count.scheduled for count in counts) == ALL_FLIGHTS
    assert sum(count.cancelled for count in counts) == flights["dep_time"].isna().sum()


# The last four lie on both sides of the clock changes of March 10th and November 3rd. In every case
# the scheduled hour itself and the hour two before it have another temperature.
@pytest.mark.parametrize(
    ("origin", "month", "day", "hour", "temp", "wind_speed"),
    [
        ("EWR", 1, 1, 5, 39.92, 12.65858),
        ("JFK", 7, 4, 18, 78.98, 14.96014),
        ("LGA", 3, 9, 8, 39.02, 12.65858),
        ("LGA", 3, 10, 9, 37.04, 5.7539),
        ("EWR", 11, 2, 6, 51.98, 6.90468),
        ("EWR", 11, 3, 6, 48.92, 12.65858),
    ],
)
def test_weather_of_known_flights_is_that_of_their_airport_an_hour_before(
    year: pd.DataFrame,
    origin: str,
    month: int,
    day: int,
    hour: int,
    temp: float,
    wind_speed: float,
) -> None:
    local_hour = year["sched_dep_time"] // 100
    here = (year["origin"] == origin) & (year["month"] == month) & (year["day"] == day)
    flights = year[here & (local_hour == hour)]
    assert len(flights) > 0
    assert flights["temp"].to_numpy() == pytest.approx(temp, rel=1e-6)
    assert flights["wind_speed"].to_numpy() == pytest.approx(wind_speed, rel=1e-6)


@pytest.mark.parametrize("column", ["temp", "visib", "pressure", "wind_gust"])
def test_weather_is_that_of_the_clock_at_the_airport_an_hour_before(
    year: pd.DataFrame, weather: pd.DataFrame, column: str
) -> None:
    assert year["sched_dep_time"].min() >= 100  # else the hour before is on the day before
    keyed = year.assign(year=2013, hour=year["sched_dep_time"] // 100 - 1)
    by_clock = keyed.drop(columns=column).merge(
        weather[["origin", *make_spans.LOCAL_HOUR, column]],
        how="left",
        on=["origin", *make_spans.LOCAL_HOUR],
    )
    pd.testing.assert_series_equal(year[column], by_clock[column].astype("float32"))


# No flight of the source leaves in these hours: 3 a.m. on March 10th follows 1 a.m., and two hours
# are called 1 a.m. on November 3rd.
@pytest.mark.parametrize(
    ("departure", "temp"),
    [
        ("2013-03-10T03:00-04:00", 39.02),
        ("2013-03-10T04:00-04:00", 37.04),
        ("2013-11-03T01:00-05:00", 51.98),
        ("2013-11-03T02:00-05:00", 50.0),
        ("2013-11-03T03:00-05:00", 51.08),
    ],
)
def test_weather_is_of_sixty_minutes_before_when_the_clocks_change(
    departure: str, temp: float
) -> None:
    instant = pd.to_datetime([departure], utc=True)
    flight = pd.DataFrame({"origin": "EWR", "time_hour": instant, "tailnum": "N14228"})
    assert make_spans.join_facts(flight)["temp"].tolist() == [temp]


def test_parse_time_hour_refuses_local_time() -> None:
    weather = make_spans.read_source("weather.csv")
    local_as_utc = pd.to_datetime(weather[make_spans.LOCAL_HOUR]).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    with pytest.raises(ValueError, match=r"weather\.time_hour .* 26115 of 26115 rows differ"):
        make_spans.parse_time_hour(weather.assign(time_hour=local_as_utc), "weather")


def test_plane_is_that_of_the_tail_number(year: pd.DataFrame) -> None:
    planes = make_spans.read_source("planes.csv").set_index("tailnum")
    known = year[year["tailnum"].isin(planes.index)]
    assert (known["model"].to_numpy() == planes.loc[known["tailnum"], "model"].to_numpy()).all()
    assert year.loc[~year["tailnum"].isin(planes.index), "model"].isna().all()


def test_make_spans_prints_the_counts_of_a_month(tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path), "--month", "201302"]
    printed = CliRunner().invoke(make_spans.main, arguments, catch_exceptions=False).output
    for figure in ("201302", "24,951", "23,611", "23.8%", "1,261", "79"):
        assert figure in printed


def test_make_spans_refuses_a_month_outside_the_source(tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path), "--month", "201401"]
    result = CliRunner().invoke(make_spans.main, arguments)
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())
