#!/bin/sh
# session.sh PYTHON OUT: benchmark and tests of a GPU in at most twelve minutes, from the repository's root.
set -u
python=${1:?usage: session.sh PYTHON OUT} out=${2:?usage: session.sh PYTHON OUT}
mkdir -p "$out"
{ nvidia-smi; "$python" -m pip list; } >"$out/machine.txt" 2>&1
timeout 420 "$python" benchmarks/gpu/run.py --out "$out" >"$out/benchmark.log" 2>&1
bench=$?
OMP_NUM_THREADS=4 timeout 290 "$python" -m pytest -q -p no:cacheprovider tests/gpu --durations=15 >"$out/tests.log" 2>&1
tests=$?
tail -n 25 "$out/benchmark.log" "$out/tests.log"
echo "benchmark: exit status $bench; tests: $tests"
[ "$bench" -eq 0 ] && [ "$tests" -eq 0 ]
