#!/bin/sh
# Install into /opt/rgopd, inside a Dockerfile's RUN: install.sh LOCK.txt | install.sh PACKAGE
# pip itself lives in /tmp, which the RUN mounts as a tmpfs: none of it stays in the image.
#
# Reads, all optional: PIP_ARGS (e.g. --no-index), TORCH_INDEX, /wheels (files that win over the index),
# /etc/pip.conf and /run/secrets/ca.pem (secrets of the build, for a mirror behind its own certificate).
set -eu
test -x /opt/rgopd/bin/python || python3 -m venv --without-pip /opt/rgopd
python3 -m venv /tmp/pip
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
test ! -s /run/secrets/ca.pem || export PIP_CERT=/run/secrets/ca.pem
index=
case $1 in
*.txt)
    if grep -q '+cpu ' "$1"; then index=${TORCH_INDEX-}; fi # PyPI's torch for Linux is the CUDA build
    set -- --require-hashes --requirement "$1"
    ;;
esac
touch /tmp/before
# --no-deps: a lock is complete; what it does not name is not installed.
# shellcheck disable=SC2086  # PIP_ARGS is a list
/tmp/pip/bin/pip --python /opt/rgopd/bin/python install --quiet --no-deps --no-compile --find-links /wheels \
    ${index:+--extra-index-url "$index"} ${PIP_ARGS-} "$@"
# The root file system is read-only, so Python could never keep what it compiles: compile here. Hash-based files hold
# no time stamps (PEP 552), so the same lock gives the same bytes. Only what is new: a layer below is not written again.
find /opt/rgopd/lib -name '*.py' -cnewer /tmp/before >/tmp/new
/opt/rgopd/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -i /tmp/new || true # tests of broken syntax
