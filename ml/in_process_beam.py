"""Runs a Beam pipeline as it stands in this process, in one thread.

Beam's own in-process runner takes the way to a cluster: it infers the type of each step's elements,
pickles the steps, sends them to workers of the same process, and encodes what passes between them.
TFT makes some thousand steps for little data, and that way took more time than the steps; of TFMA's
pipelines it took a third.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.direct.direct_runner import DirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms import core, ptransform
from apache_beam.transforms.combiners import ToListCombineFn, curry_combine_fn

from ml import beam_steps as steps

# Transforms that give what they take, as far as one process is concerned.
_AS_IT_IS = (beam.Flatten, beam.Reshuffle)


def run_in_process(build: Callable[[beam.Pipeline], None], like: beam.Pipeline) -> None:
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
        self._steps: list[steps.Step] = []
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
            return self._add(steps.Step([], waiting=values))
        if isinstance(transform, beam.WindowInto):
            if transform.windowing != steps.WINDOWING:
                raise self._not_known()
            return given
        if isinstance(transform, _AS_IT_IS):
            return self._add(steps.Step(given if isinstance(given, tuple) else [given]))
        if isinstance(transform, core._MultiParDo):
            return self._par_do(transform, given)
        if isinstance(transform, beam.ParDo):
            return self._add(steps.ParDo(given, transform, self._label(transform)))
        if isinstance(transform, beam.GroupByKey):
            return self._add(steps.Combine(given, ToListCombineFn()))
        if isinstance(transform, core._CombinePerKeyWithHotKeyFanout):
            return self._add(steps.Combine(given, transform._combine_fn))
        if isinstance(transform, beam.CombinePerKey):
            combine = curry_combine_fn(transform.fn, transform.args, transform.kwargs)
            return self._add(steps.Combine(given, combine))
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
        step = steps.ParDo(given, inner, self._label(inner), (None, *tags))
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
        found = self._add(steps.CombineGlobally(given, combine, transform.has_defaults))
        return pvalue.AsSingleton(found) if transform.as_view else found

    def _add(self, step: steps.Step) -> steps.Collection:
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
            steps.run_steps(self._steps)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            raise RuntimeError(
                f"A step failed [while running in the process]:\n\n{text}"
            ) from error
