"""A pool of Beam workers that are threads of one process, so that they import TFX once.

Beam's own command starts each worker as a process.
"""

import sys

from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

if __name__ == "__main__":
    _, server = BeamFnExternalWorkerPoolServicer.start(use_process=False, port=int(sys.argv[1]))
    server.wait_for_termination()
