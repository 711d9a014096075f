"""Where the Beam workers of a task run: in its pod, or where its mirror of a bucket is not."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from storage.errors import UserError

# Of Beam's runners, in lower case, those whose workers are the task's own threads or processes.
_IN_PROCESS = {
    *("", "directrunner", "switchingdirectrunner", "bundlebaseddirectrunner", "fnapirunner"),
}
_THREADS = "LOOPBACK"


def runner_elsewhere(executor: str, beam_args: Sequence[str]) -> str:
    """The Beam runner of a task, if its workers run outside the task's pod; or else "".

    Args:
      executor: Import path of the task's executor. TFX gives all tasks Beam's arguments, also those
        that run no Beam.
      beam_args: Arguments of Beam.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--runner", default="")
    parser.add_argument("--environment_type", default="")
    known, _ = parser.parse_known_args(list(beam_args))
    runner = known.runner.rpartition(".")[2]
    if runner.lower() in _IN_PROCESS or known.environment_type.upper() == _THREADS:
        return ""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor

    module, _, name = executor.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return runner if issubclass(kind, BaseBeamExecutor) else ""


def check_reach(uri: str, runner: str) -> None:
    """Checks that workers elsewhere can open what is in a bucket.

    Raises:
      UserError: If TensorFlow, by which nodes read and write artifacts, cannot.
    """
    import tensorflow as tf

    scheme = uri.partition("://")[0]
    if scheme not in tf.io.gfile.get_registered_schemes():
        raise UserError(
            f"{uri} is out of reach of the Beam workers of {runner}: TensorFlow opens gs://, but "
            f"no {scheme}://. Set kubeflow.pipeline_root to a bucket in gs://, or keep the workers "
            "in the task: --direct_running_mode=multi_processing in beam_args"
        )
