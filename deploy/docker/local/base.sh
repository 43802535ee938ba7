#!/bin/sh
# Make a base image without a registry: Debian's own packages, by debootstrap. Needs root, debootstrap and docker.
#   deploy/docker/local/base.sh [IMAGE] [MIRROR]
set -eu
image=${1:-rgopd-base:local}
mirror=${2:-http://deb.debian.org/debian}
docker image inspect "$image" >/dev/null 2>&1 && exit 0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" "$mirror" >"$root.log" 2>&1 || {
    tail "$root.log" >&2
    exit 1
}
rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/locale/*
tar -C "$root" -c . | docker import -c 'CMD ["python3"]' - "$image" >/dev/null
