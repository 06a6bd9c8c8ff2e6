#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check_skips.sh SKIPS EXPECTED: fails when a test was skipped that EXPECTED does not name.
set -euo pipefail
skips=$1 expected=$2
count=0 unexpected=0
for file in "$skips"/*; do
  [ -e "$file" ] || continue
  name=$(basename "$file")
  count=$((count + 1))
  if ! sed 's/[[:space:]]*#.*//' "$expected" | grep -qxF "$name"; then
    echo "skipped, but not expected to: $name"
    unexpected=$((unexpected + 1))
  fi
done
echo "$count skipped, $unexpected of them unexpected (tests/expected_skips)"
[ $unexpected = 0 ]
