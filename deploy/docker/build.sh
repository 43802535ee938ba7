#!/bin/sh
# Build the four images, each once; Docker Compose and Kubernetes use the same ones.
#   deploy/docker/build.sh [teacher verifier sampler trainer]
# Environment: VARIANT (cpu, cuda), VERSION, REGISTRY (prefix, e.g. registry.example.org/team/), BASE_IMAGE, DOCKER,
# BUILD_ARGS (more arguments of docker build, e.g. --build-arg PIP_ARGS=--no-index, --secret id=pip,src=pip.conf).
set -eu
cd "$(dirname "$0")/../.."
docker=${DOCKER:-docker}
variant=${VARIANT:-cpu}
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
tag=$version
test "$variant" = cpu || tag=$version-$variant
test $# -gt 0 || set -- verifier teacher sampler trainer
for service in "$@"; do
    file=services/$service/Dockerfile
    # shellcheck disable=SC2086  # BUILD_ARGS is a list
    DOCKER_BUILDKIT=1 $docker build --progress=plain --file "$file" --tag "${REGISTRY-}rgopd-$service:$tag" \
        --build-arg VARIANT="$variant" --build-arg VERSION="$version" --build-arg REVISION="$revision" \
        ${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"} ${BUILD_ARGS-} .
done
