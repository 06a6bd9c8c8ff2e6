#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make coverage`: what the unit tests execute of each folder, by clang's own counters; every line of it in
# build/coverage/html/index.html. The script tests, which run the programs themselves, are not counted.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh coverage
cmake --preset coverage >/dev/null
cmake --build --preset coverage -j "$(nproc)"
build=$PWD/build/coverage
rm -rf "$build/profiles" "$build/html"
# One file a program, to which its processes add.
LLVM_PROFILE_FILE=$build/profiles/%m.profraw \
  ctest --test-dir "$build" --output-on-failure --no-tests=error -j "$(nproc)" -L unit
llvm-profdata-14 merge -sparse "$build"/profiles/*.profraw -o "$build/profile"

# The programs as well: what only they link counts as never executed.
objects=()
for program in "$build"/tests/*_test "$build"/imagefs "$build"/imagefsd "$build"/imagefs-holder; do
  objects+=(-object "$program")
done
options=(-instr-profile="$build/profile" -ignore-filename-regex='^/usr/|/tests/|/build/' "${objects[@]}")
llvm-cov-14 show "${options[@]}" -format=html -output-dir="$build/html" >/dev/null
llvm-cov-14 export "${options[@]}" -summary-only -skip-functions >"$build/coverage.json"
/usr/bin/python3 - "$build/coverage.json" "$PWD" <<'PY'
import collections, json, os, sys
folders = collections.defaultdict(lambda: [0, 0, 0])
for file in json.load(open(sys.argv[1]))["data"][0]["files"]:
    lines = file["summary"]["lines"]
    for name in (os.path.relpath(file["filename"], sys.argv[2]).split("/")[0], "all"):
        of = folders[name]
        of[0] += 1
        of[1] += lines["count"]
        of[2] += lines["covered"]
print(f"\n{'folder':<8}{'files':>6}{'lines':>8}{'executed':>10}")
for name in "base image fetch cache fs snap cmd all".split():
    files, lines, covered = folders[name]
    print(f"{name:<8}{files:>6}{lines:>8}{100 * covered / lines:>9.1f}%")
PY
echo "every line: build/coverage/html/index.html"
