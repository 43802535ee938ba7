#!/bin/sh
# session.sh PYTHON OUT [SECONDS]: benchmark and tests of a GPU in at most SECONDS (570), from the repository's root.
# Everything is in OUT at any moment: a machine that is taken away has left what it had.
set -u
python=${1:?usage: session.sh PYTHON OUT [SECONDS]} out=${2:?usage: session.sh PYTHON OUT [SECONDS]} seconds=${3:-570}
began=$(date +%s)
mkdir -p "$out"
{ nvidia-smi; command -v cc gcc g++ clang; "$python" -VV; "$python" -m pip list; } >"$out/machine.txt" 2>&1
timeout -k 10 $((seconds * 63 / 100)) "$python" benchmarks/gpu/run.py --out "$out" \
    --device "${RGOPD_TEST_DEVICE:-cuda}" ${RGOPD_BENCH:-} >"$out/benchmark.log" 2>&1
bench=$?
left=$((seconds - $(date +%s) + began - 5))
OMP_NUM_THREADS=4 timeout -k 5 "$left" "$python" -m pytest -v -p no:cacheprovider --log-level=WARNING tests/gpu --durations=15 >"$out/tests.log" 2>&1
tests=$?
cat "$out/table.md"
tail -n 25 "$out/benchmark.log" "$out/tests.log"
echo "benchmark: exit status $bench; tests: $tests"
[ "$bench" -eq 0 ] && [ "$tests" -eq 0 ]
