#!/usr/bin/env python
"""A Beam worker as a process of its own, which Flink starts with `--environment_type=PROCESS`.

It does what Beam's boot program does in an image that has the project and its libraries: asks for
the job's options and runs Beam's worker. It installs nothing and needs no container.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a worker until the runner ends it.

    Args:
      argv: What Beam starts a worker with: its id, and where the runner tells the rest.
        https://beam.apache.org/documentation/runtime/sdk-harness-config/
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    arguments, _ = parser.parse_known_args(argv)
    sys.path[0] = str(_PROJECT)  # Functions of the project are named in the job.

    import grpc

    # Beam has no public door to what its boot program, which is written in Go, calls.
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from apache_beam.runners.worker import sdk_worker_main
    from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
    from google.protobuf import json_format

    from orchestration.local.proxies import spare_loopback

    spare_loopback(os.environ)
    with grpc.insecure_channel(arguments.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(
            grpc.intercept_channel(channel, WorkerIdInterceptor(arguments.id))
        )
        info = service.GetProvisionInfo(beam_provision_api_pb2.GetProvisionInfoRequest()).info
    os.environ.update(
        WORKER_ID=arguments.id,
        PIPELINE_OPTIONS=json_format.MessageToJson(info.pipeline_options),
        RUNNER_CAPABILITIES=" ".join(info.runner_capabilities),
        LOGGING_API_SERVICE_DESCRIPTOR=f'url: "{info.logging_endpoint.url}"',
        CONTROL_API_SERVICE_DESCRIPTOR=f'url: "{info.control_endpoint.url}"',
    )
    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
