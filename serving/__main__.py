"""The command line of serving: serve models, query them, and choose which version is live.

Each command is a module of `serving/commands`.
"""

from __future__ import annotations

import click

from serving.commands.card import card
from serving.commands.explain import explain
from serving.commands.manifests import manifests
from serving.commands.mirror import mirror
from serving.commands.new_key import new_key
from serving.commands.pin import pin
from serving.commands.predict import predict
from serving.commands.promote import promote
from serving.commands.reencrypt import reencrypt
from serving.commands.rollback import rollback
from serving.commands.serve import serve
from serving.commands.sign import sign
from serving.commands.traffic import traffic
from serving.commands.unpin import unpin
from serving.commands.verify import verify
from serving.commands.versions import versions
from serving.commands.vertex import vertex
from terminal.streams import run_command


@click.group()
def main() -> None:
    """Serves the models of a Serving directory, and manages their versions.

    \b
    Examples:
      python -m serving serve
      python -m serving versions
      python -m serving rollback

    SERVING_DIR is output/serving_model unless given; a folder whose name is a number is given as
    ./2013. The live version, which a server uses by default, is always the newest.

    \b
    Exit status:
      0 done    1 refused, or failed    2 wrong usage
    """


for command in (serve, predict, explain, versions, rollback, promote, pin, unpin, traffic):
    main.add_command(command)
for command in (card, sign, verify, mirror, new_key, reencrypt, manifests, vertex):
    main.add_command(command)

if __name__ == "__main__":
    run_command(main)
