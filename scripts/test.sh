#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make test`: installs what is missing, builds, and runs every test. Ends with where the time went (tests/lib/times.py)
# and ctest's summary.
#   IMAGEFS_TEST_ARGS   further arguments for ctest, e.g. "-L unit" or "-R storm"
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh test
jobs=$(nproc)

SECONDS=0
cmake --preset release >/dev/null
cmake --build --preset release -j "$jobs"
# The libFuzzer targets need clang and sanitizers, so they have a build directory of their own.
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target fuzz_targets -j "$jobs"

# Twice the processors, since most scripts wait half of their time, for disks, networks and deadlines.
ctest --test-dir build/release --output-on-failure --no-tests=error -j $((2 * jobs)) \
  --output-junit "$PWD/build/release/tests.xml" ${IMAGEFS_TEST_ARGS:-} 2>&1 |
  /usr/bin/python3 tests/lib/times.py build/release build/release/tests.xml $SECONDS
