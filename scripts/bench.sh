#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make bench`: the comparison of docs/benchmarks.md. Needs root; further arguments go to bench/run.py.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh bench
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target imagefs bench_tools
exec /usr/bin/python3 bench/run.py --imagefs build/release/imagefs --tools build/release/bench \
  --work build/bench ${BENCH_ARGS:-} "$@"
