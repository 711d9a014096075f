"""Tests that a pipeline in the process gives what Beam's own runner gives, an element at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam import pvalue
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.userstate import BagStateSpec

from ml.in_process_beam import InProcessPipeline, run_in_process

WORDS = ["a", "b", "a", "", "c", "a", "b"]


class Bundle(beam.DoFn):
    """Gives the sum of a bundle at its end, and whether it was set up."""

    def setup(self) -> None:
        self.ready = True

    def start_bundle(self) -> None:
        self.sum = 0

    def process(self, number: int) -> Iterator[int]:
        self.sum += number
        yield from ()

    def finish_bundle(self) -> Iterator[Any]:
        value = ("sum", self.sum, self.ready)
        yield beam.transforms.window.GlobalWindows.windowed_value(value)


class Stateful(beam.DoFn):
    """A step that is not known in the process."""

    SEEN = BagStateSpec("seen", beam.coders.VarIntCoder())

    def process(self, pair: Any, seen: Any = beam.DoFn.StateParam(SEEN)) -> Iterator[Any]:  # noqa: B008
        seen.add(1)
        yield pair


def split(word: str) -> Iterator[Any]:
    yield word
    yield pvalue.TaggedOutput("length", len(word))
    yield pvalue.TaggedOutput("nobody asked for", word)


def words(pipeline: beam.Pipeline) -> Any:
    return pipeline | "Words" >> beam.Create(WORDS)


def numbers(pipeline: beam.Pipeline) -> Any:
    return pipeline | "Numbers" >> beam.Create([3, 1, 2])


def sides(pipeline: beam.Pipeline) -> Any:
    found = numbers(pipeline)
    pairs = found | "Pairs" >> beam.Map(lambda n: (n, -n))
    longest = words(pipeline) | beam.Map(len) | beam.CombineGlobally(sum).as_singleton_view()
    return found | "With sides" >> beam.Map(
        lambda n, one, longest, constant, few, by_key: (
            *(n, one, longest, constant, sorted(few), by_key[n]),
        ),
        pvalue.AsSingleton(pipeline | "One" >> beam.Create([7])),
        longest,
        "constant",
        few=pvalue.AsIter(pipeline | Again()),
        by_key=pvalue.AsDict(pairs),
    )


class Again(beam.PTransform):
    """A step made of others."""

    def expand(self, begin: Any) -> Any:
        return begin | beam.Create([None]) | beam.FlatMap(lambda _: WORDS)


def tags(pipeline: beam.Pipeline) -> Any:
    found = words(pipeline) | beam.FlatMap(split).with_outputs("length", main="word")
    return (found.word, found.length) | beam.Flatten()


def keys(pipeline: beam.Pipeline) -> Any:
    values = [1, True, 1.0, b"1", "1", None, float("nan"), float("nan"), (1, "a"), 1]
    pairs = [(value, number) for number, value in enumerate(values)]
    return (
        pipeline
        | beam.Create(pairs, reshuffle=False)
        | beam.GroupByKey()
        | beam.MapTuple(lambda key, found: (repr(key), sorted(found)))
    )


def combined(pipeline: beam.Pipeline) -> Any:
    found, none = numbers(pipeline), pipeline | "None" >> beam.Create([])
    pairs = words(pipeline) | "Pair" >> beam.Map(lambda word: (word, len(word) + 1))
    results = [
        found | "Sum" >> beam.CombineGlobally(sum),
        found | "Fanned out" >> beam.CombineGlobally(sum).with_fanout(3),
        none | "Sum of none" >> beam.CombineGlobally(sum),
        none | "None of none" >> beam.CombineGlobally(sum).without_defaults(),
        found | "At least" >> beam.CombineGlobally(lambda n, least: max([least, *n]), 5),
        found | beam.combiners.Count.Globally(),
        (pipeline | Again()) | beam.combiners.Count.PerElement(),
        found | beam.combiners.Top.Of(2),
        found | beam.combiners.ToList() | beam.Map(sorted),
        pairs | "Sum per key" >> beam.CombinePerKey(sum),
        pairs | "Hot keys" >> beam.CombinePerKey(sum).with_hot_key_fanout(2),
        pairs | "Largest" >> beam.combiners.Top.LargestPerKey(1),
        pairs | "Values" >> beam.Values() | beam.Distinct(),
    ]
    return [
        result | f"Label {i}" >> beam.Map(lambda value, i: (i, value), i)
        for i, result in enumerate(results)
    ] | beam.Flatten()


def bundles(pipeline: beam.Pipeline) -> Any:
    once = beam.WindowInto(beam.window.GlobalWindows())
    found = pipeline | beam.Create([6]) | beam.Reshuffle() | once | beam.ParDo(Bundle())
    return (found, words(pipeline) | beam.Filter(bool)) | beam.Flatten()


def phases(pipeline: beam.Pipeline) -> Any:
    """A second look at the same elements, with what the first look gave."""
    found = numbers(pipeline) | "Read" >> beam.Map(lambda n: n * 10)
    mean = found | beam.combiners.Mean.Globally()
    return found | beam.Map(lambda n, mean: n - mean, pvalue.AsSingleton(mean))


def stateful(pipeline: beam.Pipeline) -> Any:
    return numbers(pipeline) | beam.Map(lambda n: ("key", n)) | beam.ParDo(Stateful())


def read_text(pipeline: beam.Pipeline) -> Any:
    return pipeline | beam.io.ReadFromText(__file__) | beam.combiners.Count.Globally()


KNOWN = [sides, tags, keys, combined, bundles, phases]
UNKNOWN = [stateful, read_text]


def written(build: Callable[[Any], Any], folder: Path, on: Callable[..., Any]) -> list[str]:
    def write(pipeline: beam.Pipeline) -> None:
        _ = build(pipeline) | "repr" >> beam.Map(repr) | beam.io.WriteToText(str(folder / "out"))

    on(write)
    return sorted(line for path in folder.glob("out*") for line in path.read_text().splitlines())


def on_beam(build: Callable[[Any], Any]) -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        build(pipeline)


def here(build: Callable[[Any], Any]) -> None:
    with InProcessPipeline(FnApiRunner()) as pipeline:
        build(pipeline)


def preferably_here(build: Callable[[Any], Any]) -> None:
    run_in_process(build, beam.Pipeline(FnApiRunner()))


@pytest.mark.parametrize("build", KNOWN)
def test_pipeline_in_process_gives_what_beams_runner_gives(
    build: Callable[[Any], Any], tmp_path: Path
) -> None:
    for name in ("here", "beam"):
        (tmp_path / name).mkdir()
    found = written(build, tmp_path / "here", here)
    assert found
    assert found == written(build, tmp_path / "beam", on_beam)


@pytest.mark.parametrize("build", UNKNOWN)
def test_run_leaves_a_step_that_it_does_not_know_to_beams_runner(
    build: Callable[[Any], Any], tmp_path: Path
) -> None:
    with pytest.raises(NotImplementedError):
        written(build, tmp_path, here)
    assert written(build, tmp_path, preferably_here)


def test_run_takes_an_element_through_all_steps_before_the_next() -> None:
    log: list[str] = []

    def note(number: int, what: str, *_: Any) -> int:
        log.append(f"{what} {number}")
        return number

    def build(pipeline: beam.Pipeline) -> None:
        side = pipeline | "One" >> beam.Create([1]) | "Note side" >> beam.Map(note, "side")
        read = numbers(pipeline) | "Read" >> beam.Map(note, "read")
        _ = read | "Size" >> beam.CombineGlobally(sum)
        _ = read | "Used" >> beam.Map(note, "used", pvalue.AsSingleton(side))

    preferably_here(build)
    reads = [f"{what} {number}" for number in (3, 1, 2) for what in ("read", "used")]
    assert log == ["side 1", *reads]


def test_run_of_a_failing_step_raises_its_traceback_and_label() -> None:
    def build(pipeline: beam.Pipeline) -> None:
        _ = numbers(pipeline) | "Divide" >> beam.Map(lambda n: n // (n - 1))

    with pytest.raises(RuntimeError, match=r"ZeroDivisionError: .* \[while running '.*Divide'\]"):
        preferably_here(build)


def test_run_of_a_failing_combiner_raises_its_traceback() -> None:
    def build(pipeline: beam.Pipeline) -> None:
        _ = words(pipeline) | beam.CombineGlobally(sum)

    with pytest.raises(RuntimeError, match=r"(?s)\[while running.*TypeError: "):
        preferably_here(build)
