"""Tiny TFX components for the runner's tests; each does one thing a node may do to its runner."""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import connection
from pathlib import Path
from typing import TypeAlias

import apache_beam as beam
from tfx import v1 as tfx

from ml import progress
from orchestration.local.node_process import Summary
from storage.errors import BlockingAnomalies, DataError, UserError

_ERRORS = {
    kind.__name__: kind
    for kind in (UserError, DataError, BlockingAnomalies, ValueError, RuntimeError)
}


class Note(tfx.dsl.Artifact):
    """Some text, and when the executor that wrote it started and ended."""

    TYPE_NAME = "Note"


_In: TypeAlias = tfx.dsl.components.InputArtifact[Note]
_Out: TypeAlias = tfx.dsl.components.OutputArtifact[Note]
_Text: TypeAlias = tfx.dsl.components.Parameter[str]
_Seconds: TypeAlias = tfx.dsl.components.Parameter[float]
_Count: TypeAlias = tfx.dsl.components.Parameter[int]


def summarize(node_id: str, outputs: dict[str, tfx.dsl.Artifact]) -> Summary:
    """The text of a node's note; in the details, when its executor started and ended."""
    note = outputs["note"]
    if _read(note) == "beyond words":
        raise ValueError("no words for it")
    times = (note.get_float_custom_property(name) for name in ("start", "end"))
    return Summary(_read(note), tuple(map(repr, times)))


@tfx.dsl.components.component
def Source(note: _Out, text: _Text = "") -> None:
    """Writes its text."""
    _write(note, text)


@tfx.dsl.components.component(use_beam=True)
def Shout(
    note: _In,
    loud: _Out,
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Has a Beam worker write a note again in capital letters."""

    def copy(source: str, target: str) -> None:
        with tfx.dsl.io.fileio.open(os.path.join(source, "text"), "r") as file:
            text = file.read().upper()
        with tfx.dsl.io.fileio.open(os.path.join(target, "text"), "w") as file:
            file.write(text)

    with beam_pipeline as pipeline:
        _ = pipeline | beam.Create([(note.uri, loud.uri)]) | beam.MapTuple(copy)


@tfx.dsl.components.component
def Empty(note: _Out) -> None:
    """Leaves an empty folder."""
    tfx.dsl.io.fileio.makedirs(note.uri)


@tfx.dsl.components.component
def LeaveFiles(
    note: _Out, socket: _Text = "", exited: _Text = "", hang: _Count = 0, die: _Count = 0
) -> None:
    """Leaves temporary files; and says where they are.

    Args:
      note: Component `outputs` contains: the folder of temporary files.
      socket: Not empty: makes a socket there, too, as Beam's and TensorFlow's servers do.
      exited: File to write when Python ends, as Beam stops its job server then.
      hang: Whether that takes for ever.
      die: Whether it is killed after all.
    """
    descriptor, _ = tempfile.mkstemp()
    os.close(descriptor)
    os.makedirs(os.path.join(tempfile.mkdtemp(), "deep"))
    subprocess.run(["mktemp"], check=True, stdout=subprocess.DEVNULL)
    if socket:
        listener = connection.Listener(family="AF_UNIX")
        atexit.register(listener.close)
    if hang:
        atexit.register(time.sleep, 3600)
    if exited:
        atexit.register(Path(exited).touch)  # The last one is the first to be called.
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    _write(note, tempfile.gettempdir())


@tfx.dsl.components.component
def Join(left: _In, right: _In, note: _Out, separator: _Text = "") -> None:
    """Writes the texts of two notes one after the other."""
    _write(note, separator.join([_read(left), _read(right)]))


@tfx.dsl.components.component
def Wait(
    note: _Out,
    file: _Text,
    touch: _Text = "",
    seconds: _Seconds = 60.0,
    stubborn: _Count = 0,
    children: _Text = "",
) -> None:
    """Makes one file and waits for another.

    A stubborn one carries on when it is told to stop. Children, one of which leads a session of its
    own, are noted in a file.
    """
    note.set_float_custom_property("start", time.monotonic())
    print(f"niceness {os.nice(0)}")
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if children:
        pids = [
            subprocess.Popen(["sleep", "120"], start_new_session=alone).pid
            for alone in (False, True)
        ]
        Path(children).write_text(" ".join(map(str, pids)))
    if touch:
        Path(touch).touch()
    end = time.monotonic() + seconds
    while not os.path.exists(file):
        if time.monotonic() > end:
            raise TimeoutError(f"{os.path.basename(file)} never came")
        time.sleep(0.02)
    _write(note, "waited")


@tfx.dsl.components.component
def Fail(note: _Out, kind: _Text = "ValueError", message: _Text = "no", unless: _Text = "") -> None:
    """Raises an error, unless a file exists."""
    if not os.path.exists(unless):
        raise _ERRORS[kind](message)
    _write(note, "corrected")


@tfx.dsl.components.component
def Kill(note: _Out, number: _Count = 9, leave_child: _Seconds = 0.0) -> None:
    """Prints, and is killed by a signal; may leave a child that holds all that it had open."""
    print("last words")
    if leave_child:
        subprocess.Popen(["sleep", str(leave_child)], close_fds=False)
    os.kill(os.getpid(), number)


@tfx.dsl.components.component
def Exit(note: _Out, status: _Count = 0) -> None:
    """Ends its process."""
    os._exit(status)


@tfx.dsl.components.component
def LeaveThread(note: _Out, seconds: _Seconds = 0.0, leave: _Count = 0) -> None:
    """Is done, or leaves the interpreter, while a thread of it is not."""
    threading.Thread(target=time.sleep, args=(seconds,)).start()
    if leave:
        sys.exit("enough")
    _write(note, "done")


@tfx.dsl.components.component
def InterruptChild(note: _Out, seconds: _Seconds = 0.0) -> None:
    """Starts a process and interrupts it, as Beam does with its job server; writes its status."""
    child = subprocess.Popen(["sleep", str(seconds)])
    child.send_signal(signal.SIGINT)
    _write(note, str(child.wait()))


@tfx.dsl.components.component
def Report(note: _Out, lines: _Count = 1, length: _Count = 1) -> None:
    """Reports progress: numbered lines, filled up to a length."""
    for number in range(lines):
        progress.report(f"{number} ".ljust(length, "."))
    _write(note, "reported")


@tfx.dsl.components.component
def DieTalking(note: _Out, length: _Count = 10_000_000, seconds: _Seconds = 0.3) -> None:
    """Is killed while the listener has taken in a part of a long message only."""
    progress.report("listen")
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    progress.report("." * length)


@tfx.dsl.components.component
def Environment(note: _Out, name: _Text = "") -> None:
    """Writes an environment variable of its process."""
    _write(note, os.environ.get(name, ""))


@tfx.dsl.components.component
def Print(note: _Out) -> None:
    """Prints in all the ways there are."""
    print("python stdout")
    print("python stderr", file=sys.stderr)
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    subprocess.run("echo child stdout; echo child stderr >&2", shell=True, check=True)
    _write(note, "printed")


def _write(note: tfx.dsl.Artifact, text: str) -> None:
    if not note.get_float_custom_property("start"):
        note.set_float_custom_property("start", time.monotonic())
    with tfx.dsl.io.fileio.open(os.path.join(note.uri, "text"), "w") as file:
        file.write(text)
    note.set_float_custom_property("end", time.monotonic())


def _read(note: tfx.dsl.Artifact) -> str:
    text = os.path.join(note.uri, "text")
    if not os.path.exists(text):
        return ""
    with tfx.dsl.io.fileio.open(text, "r") as file:
        return str(file.read())
