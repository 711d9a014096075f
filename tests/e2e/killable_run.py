"""One run of the pipeline in a process that the tests' fork server made: a kill costs no import.

The nodes of the run come from that very server, as they come from the runner's own elsewhere.
"""

from __future__ import annotations

from multiprocessing import forkserver

from orchestration.local.node_process import redirect_output


def fire(arguments: list[str], screen: str) -> None:
    """Does what `local_runner.py` does with these arguments; what it shows goes to a file."""
    redirect_output(screen)
    # The server that this process comes from; Python would start another one.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    forkserver.ensure_running = lambda: None

    import local_runner

    local_runner.main(arguments)
