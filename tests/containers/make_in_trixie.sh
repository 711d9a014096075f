#!/bin/sh
# Runs make in a container of Debian 13, whose glibc TFX 1.21 needs, on a clone of the project as it was last committed.
# The clone, its environment and its output stay in build/trixie. Needs root, podman and mmdebstrap.
#
#   ARGS=tests/storage make_in_trixie.sh test
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=${here%/tests/containers}
work=$project/build/trixie
export CONTAINERS_CONF="$here/containers.conf"
"$here/bootstrap_base.sh" localhost/debian:trixie
podman build --quiet --tag localhost/flightdeck-trixie - <<'END'
FROM localhost/debian:trixie
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
    ca-certificates g++ git make procps python3-pip python3.11 python3.11-dev \
 && rm -rf /var/lib/apt/lists/*
END
git init --quiet "$work/flightdeck"
git -C "$work/flightdeck" fetch --quiet --depth=1 "$project" HEAD
git -C "$work/flightdeck" checkout --quiet --force --detach FETCH_HEAD
git -C "$work/flightdeck" clean --quiet --force -d
# Bash is the container's first process, so that somebody waits for processes whose parents ended.
exec podman run --rm --shm-size=1g --pids-limit=-1 \
  --env=ARGS --env=MODEL --env='PIP_*' --env='UV_*' --env=UV_CACHE_DIR=/build/cache \
  ${SSL_CERT_FILE:+--env=SSL_CERT_FILE --volume="$SSL_CERT_FILE:$SSL_CERT_FILE:ro"} \
  --volume="$work:/build" --workdir=/build/flightdeck localhost/flightdeck-trixie bash -c 'make "$@"; exit' bash "$@"
