#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Files stay small enough to read at once: .cc up to 900 lines, headers up to 250.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
while read -r file; do
  lines=$(wc -l <"$file")
  case $file in
    *.h) limit=250 ;;
    tests/*) limit=1500 ;;
    *) limit=900 ;;
  esac
  [ "$lines" -le $limit ] || { echo "size: $file has $lines lines, more than $limit"; bad=1; }
done < <(git ls-files '*.cc' '*.h')
exit $bad
