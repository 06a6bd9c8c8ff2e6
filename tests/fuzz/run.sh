#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh PROGRAM NAME SECONDS WORK [SEED]: fuzzes for that long from tests/fuzz/corpus/NAME.
# The committed corpus is only read: new inputs go to WORK/corpus/NAME, findings to WORK/artifacts.
set -euo pipefail
program=$1 name=$2 seconds=$3 work=$4 seed=${5:-0}  # 0: another one each time
here=$(dirname "$0")
[ -x "$program" ] || { echo "$program is not built; run: make fuzz T=$name S=1" >&2; exit 1; }
mkdir -p "$work/corpus/$name" "$work/artifacts"
dict=(); [ -f "$here/$name.dict" ] && dict=("-dict=$here/$name.dict")
# libFuzzer's own code for a finding is 77, which ctest takes for a skip.
export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1}
exec "$program" -error_exitcode=1 -max_total_time="$seconds" -seed="$seed" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
  -verbosity=1 -artifact_prefix="$work/artifacts/$name-" "${dict[@]}" "$work/corpus/$name" "$here/corpus/$name"
