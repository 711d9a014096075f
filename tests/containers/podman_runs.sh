#!/bin/sh
# Says why `make test-containers` cannot run here, and fails; says nothing where it can.
set -eu
say() {
  echo "$1"
  exit 1
}
[ "$(id -u)" = 0 ] || say "it needs root"
for command in podman runc mmdebstrap iptables; do
  command -v "$command" >/dev/null || say "$command is missing"
done
mkdir -p /var/lib/containers
free=$(df --output=avail --block-size=1G /var/lib/containers | tail -1)
[ "$free" -ge 20 ] || say "the image needs 20 GB below /var/lib/containers, and$free are free"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/dev" "$root/etc" "$root/proc" "$root/run" "$root/sys" "$root/tmp" "$root/usr" "$root/var"
ln -s usr/bin usr/lib usr/lib64 usr/sbin "$root"
export CONTAINERS_CONF="${0%/*}/containers.conf"
podman run --rm --network none --volume /usr:/usr:ro --rootfs "$root" /usr/bin/true >/dev/null 2>&1 ||
  say "podman cannot run a container"
