#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make fuzz T=<target> S=<seconds>`: fuzzes one target, or each in turn when T is empty, starting
# from tests/fuzz/corpus/<target>. New inputs stay under build/fuzz/corpus, findings under
# build/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-} seconds=${2:-60}
scripts/deps.sh test
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target fuzz_targets -j "$(nproc)"
if [ -n "$target" ]; then
  targets=("${target%_fuzz}")
else
  targets=(); for file in tests/fuzz/*_fuzz.cc; do targets+=("$(basename "$file" _fuzz.cc)"); done
fi
for name in "${targets[@]}"; do
  tests/fuzz/run.sh "build/fuzz/tests/fuzz/${name}_fuzz" "$name" "$seconds" build/fuzz
done
