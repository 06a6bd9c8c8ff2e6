#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make check`: what a commit must pass before review: format, layers and banned words, clang-tidy.
# clang-tidy runs on the .cc files changed since CHECK_BASE (default: origin/main, else main), and
# on all of them with TIDY_ALL=1.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh test
for check in tests/lint/*.sh; do "$check"; done

if [ -n "${TIDY_ALL:-}" ]; then
  mapfile -t files < <(git ls-files 'base/*.cc' 'image/*.cc' 'fetch/*.cc' 'cache/*.cc' 'fs/*.cc' 'snap/*.cc' 'cmd/*.cc')
else
  base=${CHECK_BASE:-$(git rev-parse -q --verify origin/main || git rev-parse -q --verify main || echo HEAD~1)}
  mapfile -t files < <({ git diff --name-only --diff-filter=d "$base"; git ls-files -o --exclude-standard; } |
    grep -E '^(base|image|fetch|cache|fs|snap|cmd)/.*\.cc$' | sort -u)
fi
[ ${#files[@]} -gt 0 ] || { echo "check: no source file to tidy"; exit 0; }
# Generated headers (proto) must exist, and clang must have made the compile commands.
cmake --preset clang >/dev/null
cmake --build --preset clang --target imagefs_generated 2>/dev/null || cmake --build --preset clang --target imagefs
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build/clang --quiet
echo "check: tidy passed on ${#files[@]} files"
