#!/bin/bash
# Every shell script parses, is executable and every Python file compiles.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
for file in $(git ls-files '*.sh' .ci/run); do
  bash -n "$file" || bad=1
  [ "$(head -c 2 "$file")" = '#!' ] || continue  # it is sourced
  [ -x "$file" ] || { echo "shell: $file is not executable"; bad=1; }
done
for file in $(git ls-files '*.py'); do
  /usr/bin/python3 - "$file" <<'PY' || bad=1
import ast, sys
ast.parse(open(sys.argv[1]).read(), sys.argv[1])
PY
done
exit $bad
