#!/bin/bash
# `make test`: installs what is missing, builds, and runs every test. Ends with ctest's summary.
#   IMAGEFS_TEST_ARGS   further arguments for ctest, e.g. "-L unit" or "-R storm"
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh test
jobs=$(nproc)

cmake --preset release >/dev/null
cmake --build --preset release -j "$jobs"
# The libFuzzer targets need clang and sanitizers, so they have a build directory of their own.
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target fuzz_targets -j "$jobs"

# Wide enough for the tests that wait on the network, not so wide that the timed waits starve.
exec ctest --test-dir build/release --output-on-failure --no-tests=error -j "$jobs" ${IMAGEFS_TEST_ARGS:-}
