#!/bin/bash
# What the project says of itself is so: its licence.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
problem() { echo "project: $*"; bad=1; }

# The licence is the text that everybody knows, and README and package name it.
common=/usr/share/common-licenses/Apache-2.0
[ ! -e $common ] || cmp -s LICENSE $common || problem "LICENSE is not the text of Apache-2.0"
grep -q '^Apache-2\.0: \[LICENSE\](LICENSE)' README.md || problem "README.md does not name the licence"
grep -qx 'License: Apache-2\.0' packaging/copyright || problem "packaging/copyright does not name the licence"
exit $bad
