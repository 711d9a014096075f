"""Runs a Beam pipeline as it stands in this process, in one thread.

Beam's own in-process runner takes the way to a cluster: it infers the type of each step's elements,
pickles the steps, sends them to workers of the same process, and encodes what passes between them.
TFT makes some thousand steps for little data, and that way took more time than the steps.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import apache_beam as beam
from apache_beam import coders, pvalue
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners import common
from apache_beam.runners.direct.direct_runner import DirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms import core, ptransform, sideinputs, window
from apache_beam.transforms.combiners import ToListCombineFn, curry_combine_fn
from apache_beam.utils.windowed_value import WindowedValue

_GLOBAL = core.Windowing(window.GlobalWindows())
_in_global_window: Callable[[Any], WindowedValue] = window.GlobalWindows.windowed_value
_KEYS = coders.FastPrimitivesCoder()
# Transforms that give what they take, as far as one process is concerned.
_AS_IT_IS = (beam.Flatten, beam.Reshuffle)


def run(build: Callable[[beam.Pipeline], None], like: beam.Pipeline) -> None:
    """Builds a pipeline and runs it: in this process if that is possible.

    It is if the runner is Beam's own with one worker in the process, and all steps are known here;
    or else the pipeline is built once more and goes to the runner.

    Args:
      build: Applies the transforms to a pipeline.
      like: A pipeline with the runner and the options.

    Raises:
      RuntimeError: If a step failed; its text has the traceback. Other runners may raise others.
    """
    options = like.options.view_as(DirectOptions)
    if (
        type(like.runner) in (DirectRunner, FnApiRunner)
        and options.direct_num_workers == 1
        and options.direct_running_mode == "in_memory"
    ):
        pipeline = InProcessPipeline(like.runner, like.options)
        try:
            with pipeline:
                build(pipeline)
        except Exception:
            # What raised may have been wrapped.
            if not pipeline.unknown:
                raise
            logging.info("Beam's runner runs the pipeline, for its step %s", pipeline.unknown)
        else:
            return
    with beam.Pipeline(like.runner, like.options) as pipeline:
        build(pipeline)


class InProcessPipeline(beam.Pipeline):
    """A pipeline of bounded collections in the global window.

    An element goes through all steps that need nothing else, before the next one is made. So of a
    collection only that is in memory which a later step has to wait for.

    Attributes:
      unknown: Label of a transform that is none of Beam's basic ones, and not made of them.

    Raises:
      NotImplementedError: From applying such a transform.
      RuntimeError: From `run`, with the traceback of a step that failed as its text, as with Beam's
        own runner.
    """

    def __init__(self, runner: Any = None, options: Any = None):
        super().__init__(runner, options)
        self._steps: list[_Step] = []
        self._labels: list[str] = []
        self.unknown = ""

    def __enter__(self) -> InProcessPipeline:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not kind:
            self.run()

    def apply(self, transform: Any, pvalueish: Any = None, label: str | None = None) -> Any:
        """Applies a transform, as `beam.Pipeline.apply` does."""
        if isinstance(transform, ptransform._NamedPTransform):
            return self.apply(transform.transform, pvalueish, label or transform.label)
        if isinstance(transform, ptransform._PTransformFnPTransform):
            transform.set_options(self._options)
        self._labels.append(label or transform.label)
        try:
            return self._apply(transform, transform._extract_input_pvalues(pvalueish)[0])
        finally:
            self._labels.pop()

    def _apply(self, transform: Any, given: Any) -> Any:
        if isinstance(transform, (beam.Create, beam.Impulse)):
            values = transform.values if isinstance(transform, beam.Create) else (b"",)
            return self._add(_Step([], waiting=values))
        if isinstance(transform, beam.WindowInto):
            if transform.windowing != _GLOBAL:
                raise self._not_known()
            return given
        if isinstance(transform, _AS_IT_IS):
            return self._add(_Step(given if isinstance(given, tuple) else [given]))
        if isinstance(transform, core._MultiParDo):
            return self._par_do(transform, given)
        if isinstance(transform, beam.ParDo):
            return self._add(_ParDo(given, transform, self._label(transform)))
        if isinstance(transform, beam.GroupByKey):
            return self._add(_Combine(given, ToListCombineFn()))
        if isinstance(transform, core._CombinePerKeyWithHotKeyFanout):
            return self._add(_Combine(given, transform._combine_fn))
        if isinstance(transform, beam.CombinePerKey):
            combine = curry_combine_fn(transform.fn, transform.args, transform.kwargs)
            return self._add(_Combine(given, combine))
        if isinstance(transform, beam.CombineGlobally):
            return self._combine_globally(transform, given)
        result = transform.expand(given)
        if type(result) is pvalue.PCollection:  # Not one of this pipeline.
            raise self._not_known()
        return result

    def _not_known(self) -> NotImplementedError:
        self.unknown = "/".join(self._labels)
        return NotImplementedError(self.unknown)

    def _label(self, transform: beam.ParDo) -> str:
        signature = transform._signature
        if (
            signature.is_stateful_dofn()
            or signature.is_splittable_dofn()
            or signature.has_bundle_finalization()
            or not transform.fn._process_defined
        ):
            raise self._not_known()
        return "/".join(self._labels)

    def _par_do(self, transform: Any, given: Any) -> pvalue.DoOutputsTuple:
        tags = transform._tags
        if transform._allow_unknown_tags or not tags:
            raise self._not_known()
        inner = transform._do_transform
        step = _ParDo(given, inner, self._label(inner), (None, *tags))
        self._add(step)
        found = pvalue.DoOutputsTuple(self, inner, tags, transform._main_tag)
        found._pcolls.update(step.outputs)
        return found

    def _combine_globally(self, transform: beam.CombineGlobally, given: Any) -> Any:
        if any(
            isinstance(a, pvalue.AsSideInput) for a in (*transform.args, *transform.kwargs.values())
        ):
            raise self._not_known()
        fn = core.CombineFn.maybe_from_callable(
            transform.fn, has_side_inputs=transform.args or transform.kwargs
        )
        combine = curry_combine_fn(fn, transform.args, transform.kwargs)
        found = self._add(_CombineGlobally(given, combine, transform.has_defaults))
        return pvalue.AsSingleton(found) if transform.as_view else found

    def _add(self, step: _Step) -> _Collection:
        self._steps.append(step)
        for collection in step.outputs.values():
            collection.pipeline = self
        return step.outputs[None]

    def run(self, test_runner_api: Any = "AUTO") -> None:
        """Runs all steps.

        Raises:
          RuntimeError: If one failed.
        """
        try:
            _plan(self._steps)
            for stage in range(1 + max((step.stage for step in self._steps), default=-1)):
                _run([step for step in self._steps if step.stage == stage])
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            raise RuntimeError(
                f"A step failed [while running in the process]:\n\n{text}"
            ) from error


class _Collection(pvalue.PCollection):
    """The output of a step; `values` are its elements if they are a side input."""

    __hash__ = object.__hash__

    def __init__(self, step: _Step):
        super().__init__(None)
        self._windowing = _GLOBAL
        self.step = step
        self.consumers: list[_Step] = []
        self.values: list[WindowedValue] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other


class _Receiver(common.Receiver):
    """Gives the elements of a collection to the steps that take them, in this stage or later."""

    def __init__(self, collection: _Collection):
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
        return _Receiver(_Collection(_Step([])))


class _Step:
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
        inputs: Iterable[_Collection],
        sides: Iterable[_Collection] = (),
        tags: Iterable[str | None] = (None,),
        waiting: Iterable[Any] = (),
    ):
        self.inputs = list(inputs)
        self.sides = list(sides)
        self.outputs = {tag: _Collection(self) for tag in tags}
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


class _ParDo(_Step):
    """Calls a `DoFn`."""

    def __init__(
        self, given: Any, transform: beam.ParDo, label: str, tags: Iterable[str | None] = (None,)
    ):
        super().__init__([given], [side.pvalue for side in transform.side_inputs], tags)
        self._transform = transform
        self._label = label
        self._runner: Any = None

    def start(self, receivers: _Receivers) -> None:
        sides = [
            sideinputs.SideInputMap(type(side), side._view_options(), side.pvalue.values)
            for side in self._transform.side_inputs
        ]
        self._runner = common.DoFnRunner(
            self._transform.fn,
            self._transform.args,
            self._transform.kwargs,
            sides,
            _GLOBAL,
            receivers,
            step_name=self._label,
        )
        self.process = self._runner.process
        self._runner.setup()
        self._runner.start()

    def finish(self) -> None:
        self._runner.finish()

    def close(self) -> None:
        self._runner.teardown()
        self._runner = None


class _Combine(_Step):
    """Combines the elements of each key."""

    def __init__(self, given: Any, combine: beam.CombineFn):
        super().__init__([given])
        self._combine = combine

    def start(self, receivers: _Receivers) -> None:
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
        for key, accumulator in self._found.values():
            output = self._combine.extract_output(self._combine.compact(accumulator))
            self._give(_in_global_window(self._output(key, output)))

    def _output(self, key: Any, output: Any) -> Any:
        return key, output

    def close(self) -> None:
        self._combine.teardown()
        self._found = {}


class _CombineGlobally(_Combine):
    """Combines all elements."""

    def __init__(self, given: Any, combine: beam.CombineFn, has_default: bool):
        super().__init__(given, combine)
        self._has_default = has_default

    def _process(self, element: WindowedValue) -> None:
        self._take("", element.value)

    def finish(self) -> None:
        if self._has_default and not self._found:
            self._found[""] = "", self._combine.create_accumulator()
        super().finish()

    def _output(self, key: Any, output: Any) -> Any:
        return output


def _plan(steps: list[_Step]) -> None:
    """Decides in which stage each step runs: a source as late as possible, all others then at once.

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


def _earliest(step: _Step) -> int:
    taken = [collection.step.stage for collection in step.inputs]
    waited_for = [collection.step.stage + 1 for collection in step.sides]
    return max((*taken, *waited_for), default=0)


def _run(steps: list[_Step]) -> None:
    """Runs the steps of a stage, which come in the order in which they were applied."""
    for step in reversed(steps):
        step.start(_Receivers({tag: _Receiver(c) for tag, c in step.outputs.items()}))
    for step in steps:
        while step.waiting:
            step.process(step.waiting.popleft())
        step.finish()
    for step in steps:
        step.close()
