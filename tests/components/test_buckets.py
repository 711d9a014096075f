"""Tests that data and Serving directory may be in a bucket of an S3 server that is not Amazon's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from components.batch_predictor import input_files
from components.batch_predictor.job import predict_table
from components.span_example_gen.component import SpanExampleGen
from ml.artifacts import has_serving_model, statistics_uri
from pipeline.config import load_config
from storage import spans
from storage.directory import ModelDirectory
from storage.errors import DataError, UserError
from storage.keys import TrustStore
from storage.private_copy import private_copy
from storage.span_store import SpanStore
from storage.uris import copy_tree, open_uri
from tests.components import tiny_table_model
from tests.components.test_batch_predictor import request_of, rows, source_of, write
from tests.components.test_publishing import push, serve
from tests.conftest import PushedRun, read_month, thin

BUCKET = "s3://flightdeck"
SOURCE = load_config().data.source


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket, on a server that the environment names."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "anybody")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        endpoint = f"http://{host}:{port}"
        fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True).create_dir(
            "flightdeck"
        )
        yield BUCKET
    server.stop()


def test_span_example_gen_reads_a_bucket_as_a_folder(
    bucket: str,
    tiny_spans: Path,
    curated_schema: Path,
    run_component: Callable[..., dict[str, Any]],
) -> None:
    copy_tree(str(tiny_spans), f"{bucket}/data")
    settings = {"as_of": 0, "window": 2}
    rows = []
    for uri in (str(tiny_spans), f"{bucket}/data"):
        outputs = run_component(
            SpanExampleGen, {"schema": curated_schema}, data_uri=uri, **settings
        )
        rows.append(json.loads(outputs["examples"].get_string_custom_property("rows")))
        assert json.loads(outputs["examples"].get_string_custom_property("spans")) == {
            "train": [201302, 201303],
            "test": [201304],
        }
    assert rows[0] == rows[1]
    assert rows[0]["test"] > 200


def test_span_example_gen_reads_text_of_a_bucket(
    bucket: str, curated_schema: Path, run_component: Callable[..., dict[str, Any]]
) -> None:
    files, root = open_uri(f"{bucket}/text")
    for month in (201301, 201302):
        frame = thin(read_month(month), 200).to_pandas()
        with files.open_output_stream(f"{root}/year=2013/month={month % 100:02d}/a.csv") as out:
            out.write(frame.to_csv(index=False).encode())
    uri = f"{bucket}/text"
    source = dataclasses.replace(SOURCE, uri=uri, pattern="year={YYYY}/month={MM}")
    examples = run_component(
        SpanExampleGen, {"schema": curated_schema}, data_uri=uri, layout=source.layout, window=1
    )["examples"]
    rows = json.loads(examples.get_string_custom_property("rows"))
    assert rows["train"] > 0
    assert rows["test"] == len(thin(read_month(201302), 200))


def test_find_spans_refuses_by_name_other_contents_of_a_bucket(bucket: str) -> None:
    files, root = open_uri(f"{bucket}/mixed")
    for name in ("span-201301/part.pq", "span-201301/_SUCCESS", "span-201301/PART2.PARQUET"):
        with files.open_output_stream(f"{root}/{name}") as stream:
            stream.write(b"PAR1")
    mixed = dataclasses.replace(SOURCE, uri=f"{bucket}/mixed")
    (span,) = spans.find_spans(mixed)
    assert span.files == (f"{root}/span-201301/PART2.PARQUET", f"{root}/span-201301/part.pq")
    for name, named in (
        ("span-201301/day=16/part.parquet", "span-201301/day=16"),
        ("span-2013-02/part.parquet", "span-2013-02"),
    ):
        with files.open_output_stream(f"{root}/{name}") as stream:
            stream.write(b"PAR1")
        with pytest.raises(DataError, match=f"{root}/{named}' is a folder and no"):
            spans.find_spans(mixed)
        files.delete_file(f"{root}/{name}")
        files.delete_dir(f"{root}/{named}")


def test_span_store_may_be_in_a_bucket(bucket: str) -> None:
    store = SpanStore(f"{bucket}/spans")
    assert store.read("examples", 201301, "key") is None
    for content in (b"one", b"two"):
        store.write("examples", 201301, "key", content)
        assert store.read("examples", 201301, "key") == content
    files, path = open_uri(f"{bucket}/spans/201301")
    assert [i.base_name for i in files.get_file_info(fs.FileSelector(path))] == ["examples-key"]


def test_find_spans_names_a_missing_bucket(bucket: str) -> None:
    with pytest.raises(DataError, match="data directory 's3://nowhere/data'"):
        spans.find_spans(dataclasses.replace(SOURCE, uri="s3://nowhere/data"))


def test_pusher_pushes_a_signed_model_to_a_bucket_that_is_served(
    bucket: str, pushed: PushedRun, tmp_path: Path
) -> None:
    serving_dir = f"{bucket}/serving"
    nothing, _ = serve(serving_dir, tmp_path / "nothing")
    assert not has_serving_model(nothing)

    key = tmp_path / "signing.key"
    output = push(pushed, serving_dir, tmp_path / "pushed", signing_key=str(key))
    directory = ModelDirectory(serving_dir, "trip_delay")
    (version,) = directory.versions()
    assert output.get_string_custom_property("pushed_version") == str(version)
    public_key = str(key.with_suffix(".pub"))
    private_copy(directory, version, TrustStore([public_key])).close()

    model, statistics = serve(serving_dir, tmp_path / "served")
    assert has_serving_model(model)
    assert Path(statistics_uri(statistics, "train")).stat().st_size > 0

    again = push(pushed, serving_dir, tmp_path / "again")
    assert f"version {version}" in again.get_string_custom_property("reason")
    assert directory.versions() == [version]


def test_directory_in_a_bucket_is_rolled_back_and_promoted(
    bucket: str, pushed: PushedRun, tmp_path: Path
) -> None:
    serving_dir = f"{bucket}/rolled"
    push(pushed, serving_dir, tmp_path / "pushed")
    directory = ModelDirectory(serving_dir, "trip_delay")
    (first,) = directory.versions()
    directory.publish(first + 1, str(pushed.version), str(tmp_path / "pushed" / "provenance"))
    assert directory.served() == first + 1
    directory.rollback()
    assert directory.served() == first
    directory.promote(first + 1)
    assert directory.served() == first + 1


def test_open_uri_uses_the_endpoint_for_s3_only(bucket: str, tmp_path: Path) -> None:
    files, path = open_uri(str(tmp_path))
    assert (files.type_name, path) == ("local", str(tmp_path))
    files, path = open_uri(f"{bucket}/a/")
    assert (files.type_name, path) == ("s3", "flightdeck/a")


def test_batch_predictor_reads_and_writes_a_bucket(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tiny_table_model.push(tmp_path / "served", background=tiny_table_model.BACKGROUND)
    monkeypatch.setattr(input_files, "ROWS_PER_SHARD", 4)
    write(tmp_path / "in" / "a.parquet", rows(10))
    write(tmp_path / "in" / "b.parquet", rows(5, 10))
    copy_tree(str(tmp_path / "in"), f"{bucket}/in")
    copy_tree(str(served / "serving_model"), f"{bucket}/predicting")
    source = dataclasses.replace(source_of(served), serving_dir=f"{bucket}/predicting")
    request = request_of(tmp_path / "in", tmp_path / "out")
    request = dataclasses.replace(request, explain=True)
    predict_table(source_of(served), request, beam.Pipeline)
    there = dataclasses.replace(request, input_uri=f"{bucket}/in", output_uri=f"{bucket}/out")
    manifest = predict_table(source, there, beam.Pipeline).manifest
    files, root = open_uri(there.output_uri)
    here = sorted(
        str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*.parquet")
    )
    assert [*manifest["shards"][0]["files"]] == [here[0]]
    for name in here:
        content = files.open_input_file(f"{root}/{name}").read()
        assert content == (tmp_path / "out" / name).read_bytes()
    assert predict_table(source, there, beam.Pipeline).reused == len(manifest["shards"])
    inside = dataclasses.replace(there, output_uri=f"{bucket}/in/out")
    with pytest.raises(UserError, match="is inside the input"):
        predict_table(source, inside, beam.Pipeline)
