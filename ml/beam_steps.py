"""The steps of a pipeline that runs in this process: what each takes, gives and has to wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import apache_beam as beam
from apache_beam import coders, pvalue
from apache_beam.runners import common
from apache_beam.transforms import core, sideinputs, window
from apache_beam.utils.windowed_value import WindowedValue

# How the elements of all collections are windowed.
WINDOWING = core.Windowing(window.GlobalWindows())
_in_global_window: Callable[[Any], WindowedValue] = window.GlobalWindows.windowed_value
_KEYS = coders.FastPrimitivesCoder()


class Collection(pvalue.PCollection):
    """The output of a step; `values` are its elements if they are a side input."""

    __hash__ = object.__hash__

    def __init__(self, step: Step):
        super().__init__(None)
        self._windowing = WINDOWING
        self.step = step
        self.consumers: list[Step] = []
        self.values: list[WindowedValue] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other


class _Receiver(common.Receiver):
    """Gives the elements of a collection to the steps that take them, in this stage or later."""

    def __init__(self, collection: Collection):
        stage = collection.step.stage
        self._targets = [
            step.process if step.stage == stage else step.waiting.append
            for step in collection.consumers
        ]
        if collection.values is not None:
            self._targets.append(collection.values.append)

    def receive(self, windowed_value: WindowedValue) -> None:
        for target in self._targets:
            target(windowed_value)


class _Receivers(dict[str | None, _Receiver]):
    """By tag; what has a tag that nobody asked for is dropped."""

    def __missing__(self, tag: str) -> common.Receiver:
        return _Receiver(Collection(Step([])))


class Step:
    """A source of elements, or a step that gives what it takes.

    Attributes:
      inputs: Collections of which it takes one element after another.
      sides: Collections that have to be whole before it takes any.
      outputs: Its outputs by tag.
      waiting: Elements to take when its stage begins.
      process: Takes an element.
    """

    def __init__(
        self,
        inputs: Iterable[Collection],
        sides: Iterable[Collection] = (),
        tags: Iterable[str | None] = (None,),
        waiting: Iterable[Any] = (),
    ):
        self.inputs = list(inputs)
        self.sides = list(sides)
        self.outputs = {tag: Collection(self) for tag in tags}
        self.waiting = deque(_in_global_window(value) for value in waiting)
        self.stage = 0
        self.process: Callable[[WindowedValue], Any]
        for collection in self.inputs:
            collection.consumers.append(self)
        for collection in self.sides:
            collection.values = []

    def start(self, receivers: _Receivers) -> None:
        """Prepares for elements; the steps that take the output are prepared."""
        self.process = receivers[None].receive

    def finish(self) -> None:
        """Gives what it could not give before it had all elements."""

    def close(self) -> None:
        """Releases what it holds."""


class ParDo(Step):
    """Calls a `DoFn`."""

    def __init__(
        self, given: Any, transform: beam.ParDo, label: str, tags: Iterable[str | None] = (None,)
    ):
        super().__init__([given], [side.pvalue for side in transform.side_inputs], tags)
        self._transform = transform
        self._label = label
        self._runner: Any = None

    def start(self, receivers: _Receivers) -> None:
        """As `Step.start`."""
        sides = [
            sideinputs.SideInputMap(type(side), side._view_options(), side.pvalue.values)
            for side in self._transform.side_inputs
        ]
        self._runner = common.DoFnRunner(
            self._transform.fn,
            self._transform.args,
            self._transform.kwargs,
            sides,
            WINDOWING,
            receivers,
            step_name=self._label,
        )
        self.process = self._runner.process
        self._runner.setup()
        self._runner.start()

    def finish(self) -> None:
        """As `Step.finish`."""
        self._runner.finish()

    def close(self) -> None:
        """As `Step.close`."""
        self._runner.teardown()
        self._runner = None


class Combine(Step):
    """Combines the elements of each key."""

    def __init__(self, given: Any, combine: beam.CombineFn):
        super().__init__([given])
        self._combine = combine

    def start(self, receivers: _Receivers) -> None:
        """As `Step.start`."""
        self._give = receivers[None].receive
        self._found: dict[Hashable, tuple[Any, Any]] = {}
        self.process = self._process
        self._combine.setup()

    def _process(self, element: WindowedValue) -> None:
        self._take(*element.value)

    def _take(self, key: Any, value: Any) -> None:
        # Equal to Python are also 1, 1.0 and True.
        same = key if type(key) in (bytes, str, int) else (_KEYS.encode(key),)
        _, accumulator = self._found.get(same) or (None, self._combine.create_accumulator())
        self._found[same] = key, self._combine.add_input(accumulator, value)

    def finish(self) -> None:
        """As `Step.finish`."""
        for key, accumulator in self._found.values():
            output = self._combine.extract_output(self._combine.compact(accumulator))
            self._give(_in_global_window(self._output(key, output)))

    def _output(self, key: Any, output: Any) -> Any:
        return key, output

    def close(self) -> None:
        """As `Step.close`."""
        self._combine.teardown()
        self._found = {}


class CombineGlobally(Combine):
    """Combines all elements."""

    def __init__(self, given: Any, combine: beam.CombineFn, has_default: bool):
        super().__init__(given, combine)
        self._has_default = has_default

    def _process(self, element: WindowedValue) -> None:
        self._take("", element.value)

    def finish(self) -> None:
        """As `Step.finish`."""
        if self._has_default and not self._found:
            self._found[""] = "", self._combine.create_accumulator()
        super().finish()

    def _output(self, key: Any, output: Any) -> Any:
        return output


def run_steps(steps: list[Step]) -> None:
    """Runs steps, which come in the order in which they were applied."""
    _plan(steps)
    for stage in range(1 + max((step.stage for step in steps), default=-1)):
        _run([step for step in steps if step.stage == stage])


def _plan(steps: list[Step]) -> None:
    """Decides in which stage each step runs: a source when it is needed, all others then at once.

    A step comes after those it takes from, and after the stage of those that it has to wait for.
    """
    for step in steps:
        step.stage = _earliest(step)
    last = 1 + max((step.stage for step in steps), default=0)
    latest = dict.fromkeys(map(id, steps), last)
    for step in reversed(steps):
        for collection in step.inputs:
            taken_from = id(collection.step)
            latest[taken_from] = min(latest[taken_from], latest[id(step)])
        for collection in step.sides:
            waited_for = id(collection.step)
            latest[waited_for] = min(latest[waited_for], latest[id(step)] - 1)
    for step in steps:
        step.stage = _earliest(step) if step.inputs else latest[id(step)]


def _earliest(step: Step) -> int:
    taken = [collection.step.stage for collection in step.inputs]
    waited_for = [collection.step.stage + 1 for collection in step.sides]
    return max((*taken, *waited_for), default=0)


def _run(steps: list[Step]) -> None:
    """Runs the steps of a stage, which come in the order in which they were applied."""
    for step in reversed(steps):
        step.start(_Receivers({tag: _Receiver(c) for tag, c in step.outputs.items()}))
    for step in steps:
        while step.waiting:
            step.process(step.waiting.popleft())
        step.finish()
    for step in steps:
        step.close()
