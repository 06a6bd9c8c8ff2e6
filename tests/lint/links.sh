#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the Markdown files refer to is there: links and their headings, paths of the tree, names of tests. So is every
# file of docs/ that any other file names, and docs/README.md lists them all.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
git ls-files -z '*.md' | xargs -0 /usr/bin/python3 tests/lint/links.py || bad=1

while IFS=: read -r file line path; do
  path=${path%.}
  [ -e "$path" ] || { echo "links: $file:$line: $path: no such file"; bad=1; }
done < <(git grep -nIoE '\bdocs/[A-Za-z0-9_/.-]+' -- ':!*.md' ':!tests/lint')

# Manual pages are not installed among the documents, so it names them without a link.
for page in $(git ls-files docs ':!docs/README.md'); do
  case $page in
    docs/man/*) name=${page#docs/man/} name="${name%.*}(${name##*.})" ;;
    *) name="](${page#docs/})" ;;
  esac
  grep -qF "$name" docs/README.md || { echo "links: docs/README.md does not list $page"; bad=1; }
done

# The lint sees what is wrong.
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cat >"$T/wrong.md" <<'MD'
# A heading, with `code`
[right](#a-heading-with-code) [no heading](#a-heading) [no file](none.md) `docs/none.md` `tests/lint/none.sh`
`fault.999-none` `999-none` `none_test` `NoneTest` (unit, `NoneAtAll`) `tests/{lint,none}` `docs/adr/0001*` `scripts/test.sh`
MD
found=$({ /usr/bin/python3 tests/lint/links.py "$T/wrong.md" || true; } | wc -l)
[ "$found" = 10 ] || { echo "links: 10 references lead nowhere, $found are found"; bad=1; }
exit $bad
