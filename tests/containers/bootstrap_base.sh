#!/bin/sh
# Makes a minimal Debian from Debian's packages, and an image of it, where there is none: a base for the project's image
# that comes from no image registry. Debian 13 (trixie), whose Python is newer, finds Python 3.11 among Debian 12's
# packages. Needs root, mmdebstrap and podman.
#
#   bootstrap_base.sh localhost/debian:bookworm [MIRROR]
set -eu
image=$1
suite=${image##*:}
if podman image exists "$image"; then exit 0; fi
archive=$(mktemp --suffix .tar)
trap 'rm -f "$archive"' EXIT
python=
if [ "$suite" = trixie ]; then python="deb ${2:-http://deb.debian.org/debian} bookworm main"; fi
mmdebstrap --quiet --variant=minbase \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  ${python:+--customize-hook="echo '$python' >\"\$1/etc/apt/sources.list.d/python3.11.list\""} \
  "$suite" "$archive" ${2:+"$2"}
podman import --quiet "$archive" "$image"
