#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every shell script parses, is executable and ends at the first command that fails and the first name that is not set,
# and every Python file compiles.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
for file in $(git ls-files '*.sh' '*.bash' .ci/run tests/vm/guest/init packaging/postinst packaging/prerm packaging/postrm packaging/kubernetes/imagefs-node); do
  bash -n "$file" || bad=1
  [ "$(head -c 2 "$file")" = '#!' ] || continue  # it is sourced
  [ -x "$file" ] || { echo "shell: $file is not executable"; bad=1; }
  case $file in
    packaging/kubernetes/*) regex='^set -eu$' ;;  # of busybox
    packaging/*) regex='^set -e$' ;;  # dpkg gives its names or none
    .ci/run | tests/integration/009-shaper.sh) continue ;;  # one command
    tests/lib/run_test.sh) continue ;;  # it passes a status on
    tests/vm/guest/*) regex='^\. /vm/lib\.sh$' ;;  # where a failed command is a finding, and said
    *) regex='^set -euo pipefail$|^\. .*/lib\.sh"$' ;;
  esac
  grep -qE "$regex" "$file" || { echo "shell: $file lacks \`set -euo pipefail\`"; bad=1; }
done
for file in $(git ls-files '*.py'); do
  /usr/bin/python3 - "$file" <<'PY' || bad=1
import ast, sys
ast.parse(open(sys.argv[1]).read(), sys.argv[1])
PY
done
exit $bad
