#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A folder of the source tree includes only from itself and from those to its left, and the public
# headers never pull in cmd/ or a generated protocol.
set -euo pipefail
cd "$(dirname "$0")/../.."
order=(base image fetch cache fs snap cmd)
bad=0
for i in "${!order[@]}"; do
  folder=${order[$i]}
  [ -d "$folder" ] || continue
  for right in "${order[@]:$((i + 1))}"; do
    if grep -nE "^#include \"$right/" "$folder"/*.h "$folder"/*.cc 2>/dev/null; then
      echo "layers: $folder/ may not include $right/: the order is ${order[*]}"
      bad=1
    fi
  done
  if grep -nE '^#include "(tests|bench)/' "$folder"/*.h "$folder"/*.cc 2>/dev/null; then
    echo "layers: $folder/ may not include tests or benchmarks"
    bad=1
  fi
done
# Root-relative includes only: "name.h" and "../x.h" hide where a header lives.
if grep -nE '^#include "(\.\.?/|[^/"]+")' $(git ls-files '*.h' '*.cc'); then
  echo "layers: project includes are relative to the root, e.g. \"base/fd.h\""
  bad=1
fi
for file in $(git ls-files '*.h'); do
  grep -q '^#pragma once$' "$file" || { echo "layers: $file has no #pragma once"; bad=1; }
done
exit $bad
