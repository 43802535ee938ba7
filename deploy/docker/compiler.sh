#!/bin/sh
# A C compiler and Python's headers, and a check that Triton can build its launcher's stub with them.
set -eu
headers=$(/opt/rgopd/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
packages="gcc libc6-dev"
test -f "$headers/Python.h" || packages="$packages libpython3-dev"
apt-get update -q
# shellcheck disable=SC2086  # packages is a list
apt-get install -y -q --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
printf '#include <Python.h>\nint main(void) { return PY_MAJOR_VERSION == 3 ? 0 : 1; }\n' >/tmp/stub.c
gcc -I"$headers" -o /tmp/stub /tmp/stub.c
/tmp/stub
rm -f /tmp/stub /tmp/stub.c
