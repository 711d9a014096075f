"""Runs a compiled pipeline here, each task in a container that may do as little as in a cluster.

Not run by the project's Python: `requirements.in` beside it says what it needs, and why.
"""

from __future__ import annotations

import argparse

from docker.types import Mount
from kfp import components, local


def main() -> None:
    """Runs it, with the defaults of its parameters; fails where a task does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", help="the compiled pipeline")
    parser.add_argument("--pipeline-root", required=True, help="folder for artifacts")
    parser.add_argument("--volume", required=True, help="folder that all tasks mount")
    parser.add_argument("--mount-path", required=True, help="where they mount it")
    parser.add_argument("--label", required=True, help="label of the containers, which are kept")
    arguments = parser.parse_args()
    local.init(
        runner=local.DockerRunner(
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mounts=[Mount(arguments.mount_path, arguments.volume, type="bind")],
            labels=[arguments.label],
            # kfp.local does not read the part of a package that says it.
            environment={"PYTHONPATH": f"{arguments.mount_path}/code"},
        ),
        pipeline_root=arguments.pipeline_root,
    )
    components.load_component_from_file(arguments.package)()


if __name__ == "__main__":
    main()
