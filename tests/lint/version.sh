#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The version is said by CMakeLists.txt. The changelogs end at it, and nothing else has a version of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
problem() { echo "version: $*"; bad=1; }

version=$(sed -nE 's/^project\(imagefs VERSION ([0-9]+\.[0-9]+\.[0-9]+) .*/\1/p' CMakeLists.txt)
[ -n "$version" ] || problem "CMakeLists.txt says no version"

debian=$(dpkg-parsechangelog -l packaging/changelog -S Version 2>&1) || true
[ "$debian" = "$version" ] || problem "CMakeLists.txt says $version, packaging/changelog says $debian"

# The heading of what is not released comes first, then versions with their days, the newest first.
headings=$(sed -n 's/^## //p' CHANGELOG.md)
[ "${headings%%$'\n'*}" = '[Unreleased]' ] || problem "CHANGELOG.md does not begin with [Unreleased]"
released=$(sed 1d <<<"$headings")
wrong=$(grep -vxE '(\[[0-9]+\.[0-9]+\.[0-9]+\] - [0-9]{4}-[0-9]{2}-[0-9]{2})?' <<<"$released" || true)
[ -z "$wrong" ] || problem "a heading of CHANGELOG.md is none of a version: $wrong"
sort -Vrc <<<"$released" 2>/dev/null || problem "the versions of CHANGELOG.md are in no order"
newest=$(sed -nE '1s/^\[(.*)\].*/\1/p' <<<"$released")
[ "${newest:-$version}" = "$version" ] || problem "CMakeLists.txt says $version, CHANGELOG.md says $newest"

# Everything else has it from there.
grep -q 'IMAGEFS_VERSION="${PROJECT_VERSION}"' cmd/CMakeLists.txt || problem "the programs' version is another one"
if git grep -nE 'PACKAGE_VERSION' -- '*.cmake' '*CMakeLists.txt'; then problem "the package's version is another one"; fi
if git grep -nIE 'imagefs[ _/-]v?[0-9]+\.[0-9]+\.[0-9]' -- ':!packaging/changelog' ':!CHANGELOG.md' ':!tests/unit' ':!tests/lint'; then
  problem "the version is said in CMakeLists.txt and the changelogs only"
fi
exit $bad
