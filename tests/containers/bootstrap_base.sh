#!/bin/sh
# Makes a minimal Debian from Debian's packages, and an image of it, where there is none: a base for the project's image
# that comes from no image registry. Needs root, mmdebstrap and podman.
#
#   bootstrap_base.sh localhost/debian:bookworm [MIRROR]
set -eu
image=$1
suite=${image##*:}
if podman image exists "$image"; then exit 0; fi
archive=$(mktemp --suffix .tar)
trap 'rm -f "$archive"' EXIT
mmdebstrap --quiet --variant=minbase \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  "$suite" "$archive" ${2:+"$2"}
podman import --quiet "$archive" "$image"
