"""Kubeflow Pipelines, as the commands use it."""

from __future__ import annotations

from orchestration.kubeflow.runs import Runs
from orchestration.kubeflow.schedules import Schedules


class KubeflowPipelines(Runs, Schedules):
    """A deployment of Kubeflow Pipelines.

    Whatever can be checked here is checked before the server is asked to create anything. All
    methods raise `KubeflowError` if the server cannot be reached, or refuses.

    Args:
      host: Address, such as http://localhost:8080. Default: the environment variable
        KF_PIPELINES_ENDPOINT; then, as kfp finds them, the cluster that this runs in, or that of
        the kubeconfig.
      namespace: Namespace of runs and schedules, where the deployment has several. Default: the
        environment variable KF_PIPELINES_NAMESPACE, kfp's own context, that of the token's service
        account, the pod's.
      token_file: File with a bearer token, read for every request, so it may be renewed. Default:
        the environment variable KF_PIPELINES_TOKEN, the token projected into the pod, or what kfp
        finds itself.
      ca_file: Certificates to trust, PEM. Default: those of Mozilla.
      timeout: Longest time for a response, in seconds.

    Raises:
      KubeflowError: If no address is known, or a file cannot be read.

    Examples:
      >>> kubeflow = KubeflowPipelines("http://localhost:8080")
      >>> run = kubeflow.submit(read_package(Path("pipeline.yaml")), {})  # doctest: +SKIP
      >>> kubeflow.wait(run.run_id).state  # doctest: +SKIP
      'SUCCEEDED'
    """
