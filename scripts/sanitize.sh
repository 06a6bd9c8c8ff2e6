#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make asan|tsan|clang`: builds that preset and runs its unit tests and corpus replays.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
scripts/deps.sh test
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" -j "$(nproc)"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-second_deadlock_stack=1:suppressions=$PWD/tests/sanitize/tsan.supp}
exec ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j "$(nproc)" -L 'unit|replay'
