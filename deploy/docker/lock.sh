#!/bin/sh
# Write the lock files of the images and of .venv from pyproject.toml: exact versions with the hashes of every file that may be installed.
#   pip install uv && deploy/docker/lock.sh
# One lock a service and variant. torch has a lock of its own, since it is a layer that the model images share.
set -eu
cd "$(dirname "$0")/../.."
LOCKS=deploy/docker/locks
TORCH=torch==2.13.0
# sha256 of torch 2.13.0+cpu for CPython 3.11, linux x86_64, from https://download.pytorch.org/whl/cpu (that index
# cannot be asked by `uv` without a route to it, so the number is kept here; a wrong file fails the build).
TORCH_CPU_SHA256=6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

compile() { # compile OUT ARGS...; on stdin, more requirements
    out=$1
    shift
    uv pip compile --quiet --generate-hashes --no-annotate --no-header --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --default-index https://pypi.org/simple "$@" -o "$out"
}

names() { sed -n "/sys_platform == 'win32'/d; s/^\([a-z0-9._-]*\)==.*/\1/p" "$1"; } # what is there on Linux

without() { # every package of the torch layer is left out of the layer above it
    for name in $(names "$1"); do printf ' --no-emit-package %s' "$name"; done
}

echo 'setuptools>=77' | compile $LOCKS/build.txt -
echo "$TORCH" | compile $LOCKS/torch/cuda.txt -
# The CPU build has torch's pure dependencies and none of its CUDA libraries. Hashes: PyPI's for these, PyTorch's above.
printf 'filelock\nfsspec\njinja2\nnetworkx\nsetuptools\nsympy\ntyping-extensions\n' |
    compile $LOCKS/torch/cpu.txt -c $LOCKS/torch/cuda.txt -
printf '%s+cpu \\\n    --hash=sha256:%s\n' "$TORCH" "$TORCH_CPU_SHA256" >>$LOCKS/torch/cpu.txt

# What `make install` puts into .venv, for any platform and Python; torch and its CUDA libraries are the user's choice.
sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' $LOCKS/torch/cuda.txt | sort >/tmp/rgopd-cuda-names
sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' $LOCKS/torch/cpu.txt | grep -v '^torch$' | sort >/tmp/rgopd-pure-names
# shellcheck disable=SC2046
uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
    --default-index https://pypi.org/simple pyproject.toml --extra teacher --extra verifier --extra trainer --extra dev \
    $(comm -23 /tmp/rgopd-cuda-names /tmp/rgopd-pure-names | grep -v '^triton$' | sed 's/^/--no-emit-package /') \
    -c $LOCKS/torch/cuda.txt -o $LOCKS/dev.txt
# What `make test-eval` adds to .venv: nothing that is in it already, and no torch.
# shellcheck disable=SC2046
uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --python-version 3.11 \
    --default-index https://pypi.org/simple pyproject.toml --extra eval --extra trainer -c $LOCKS/dev.txt \
    -c $LOCKS/torch/cuda.txt $(without $LOCKS/dev.txt) $(without $LOCKS/torch/cuda.txt) -o $LOCKS/eval.txt
rm /tmp/rgopd-cuda-names /tmp/rgopd-pure-names
# What `make test-lowest` installs: the lowest versions that pyproject.toml allows; nothing that torch loads on a GPU alone.
for name in triton cuda-bindings cuda-pathfinder nvidia-cuda-nvrtc nvidia-cusolver nvidia-nvtx; do
    echo "$name; sys_platform == 'never'"
done >/tmp/rgopd-left-out
compile $LOCKS/lowest.txt --resolution lowest-direct --override /tmp/rgopd-left-out \
    pyproject.toml --extra teacher --extra verifier --extra trainer
rm /tmp/rgopd-left-out

compile $LOCKS/verifier-cpu.txt pyproject.toml --extra verifier --extra packages --extra s3
echo "pytest>=8" | compile $LOCKS/attacks.txt -c $LOCKS/verifier-cpu.txt -
for service in teacher sampler trainer; do
    extra=$service
    test $service = sampler && extra=teacher # transformers and safetensors, nothing else
    # shellcheck disable=SC2046  # a list of arguments is meant
    compile $LOCKS/$service-cpu.txt pyproject.toml --extra $extra --extra s3 -c $LOCKS/torch/cuda.txt \
        $(without $LOCKS/torch/cuda.txt) --no-emit-package torch
done
# shellcheck disable=SC2046
compile $LOCKS/trainer-cuda.txt pyproject.toml --extra trainer --extra s3 -c $LOCKS/torch/cuda.txt $(without $LOCKS/torch/cuda.txt)
# vLLM names its own torch: these two images share a torch layer only when that is the one above.
for service in teacher sampler; do
    # shellcheck disable=SC2046
    compile $LOCKS/$service-cuda.txt pyproject.toml --extra teacher --extra vllm --extra s3 $(without $LOCKS/torch/cuda.txt) \
        -c $LOCKS/torch/cuda.txt
done
