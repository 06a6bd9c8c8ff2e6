#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the project tells strangers is so: the licence, the order of the folders, how files are written (.editorconfig),
# what runs on a public host.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
problem() { echo "project: $*"; bad=1; }

# The licence is the text that everybody knows, and README and package name it.
common=/usr/share/common-licenses/Apache-2.0
[ ! -e $common ] || cmp -s LICENSE $common || problem "LICENSE is not the text of Apache-2.0"
grep -q '^Apache-2\.0: \[LICENSE\](LICENSE)' README.md || problem "README.md does not name the licence"
grep -qx 'License: Apache-2\.0' packaging/copyright || problem "packaging/copyright does not name the licence"

# Every source says the licence in its first lines, where tools look for it.
hits=$(git ls-files '*.cc' '*.h' '*.c' '*.go' '*.proto' '*.fbs' '*.sh' '*.py' '*.cmake' '*CMakeLists.txt' Makefile .ci/run |
  while read -r file; do
    head -n 2 "$file" | grep -qE '^(//|#) SPDX-License-Identifier: Apache-2\.0$' || echo "$file"
  done)
[ -z "$hits" ] || problem "no SPDX line:"$'\n'"$hits"

# The folders, in the order in which they include.
order=$(sed -n 's/^order=(\(.*\))$/\1/p' tests/lint/layers.sh)
told=$(sed -nE 's/^\| `([a-z]+)\/` \|.*/\1/p' CONTRIBUTING.md | xargs)
[ "$order" = "$told" ] || problem "CONTRIBUTING.md has the folders $told, tests/lint/layers.sh $order"

# The workflow fetches what is needed to clone, and runs .ci/run, which is `make test`.
ran=$(sed -nE 's/^ *- run: (.*)/\1/p' .github/workflows/ci.yml | grep -vE '^apt-get |^git config ' || true)
[ "$ran" = .ci/run ] || problem "the workflow runs: $ran"
grep -qE 'exec make test$' .ci/run || problem ".ci/run is not \`make test\`"

# .editorconfig: UTF-8, a line feed behind every line, nothing at the ends of lines, tabs where they are told of.
[ "$(sed -n 's/^ColumnLimit: //p' .clang-format)" = "$(sed -n 's/^max_line_length = //p' .editorconfig)" ] ||
  problem ".editorconfig and .clang-format have lines of different lengths"
files() { git grep -IlE '' -- ':!tests/fuzz/corpus' "$@"; }
hits=$(files | xargs grep -nP '[ \t\r]+$' || true)
[ -z "$hits" ] || problem "blanks at the end of lines:"$'\n'"$hits"
hits=$(files ':!Makefile' ':!*.go' | xargs grep -nP '\t' || true)
[ -z "$hits" ] || problem "tabs:"$'\n'"$hits"
for file in $(files); do
  [ -z "$(tail -c 1 "$file")" ] || problem "$file: no line feed at the end"
done
files | xargs -n 100 iconv -f UTF-8 -t UTF-8 >/dev/null || problem "not UTF-8"
exit $bad
