#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a release in this clone: a commit that sets the version, and an annotated tag vVERSION. Pushes nothing.
#   scripts/release.sh VERSION
# Before it, give the version a section in CHANGELOG.md and in packaging/changelog, committed or not; nothing else may be
# changed. No test is run but tests/lint/version.sh, and tests/lint/api.sh, which adds what is new to the API's promises.
set -euo pipefail
cd "$(dirname "$0")/.."
refuse() { echo "release: $*" >&2; exit 1; }
[ $# = 1 ] || { echo "usage: release.sh VERSION" >&2; exit 2; }
version=$1
[[ $version =~ ^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}$ ]] || refuse "$version is no version, e.g. 1.2.3"
tag=v$version

other=$(git status --porcelain --untracked-files=normal -- . ':!CHANGELOG.md' ':!packaging/changelog')
[ -z "$other" ] || refuse "there are changes beside the changelogs:"$'\n'"$other"
! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || refuse "the tag $tag is there already"

now=$(sed -nE 's/^project\(imagefs VERSION ([0-9.]+) .*/\1/p' CMakeLists.txt)
dpkg --compare-versions "$version" ge "$now" || refuse "$version is older than $now"
grep -qE "^## \[${version//./\\.}\] - [0-9-]+$" CHANGELOG.md || refuse "CHANGELOG.md has no section [$version] - YYYY-MM-DD"
debian=$(dpkg-parsechangelog -l packaging/changelog -S Version)
[ "$debian" = "$version" ] || refuse "packaging/changelog begins with $debian"
! dpkg-parsechangelog -l packaging/changelog -S Distribution | grep -qx UNRELEASED || refuse "packaging/changelog says UNRELEASED"
# From the section's heading to the next one.
notes=$(awk -v heading="## [$version] " '/^## / { in_it = index($0, heading) == 1; next } in_it' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || refuse "CHANGELOG.md says nothing of $version"

# Nothing is left of a release that fails from here on.
kit=(packaging/kubernetes/chart/Chart.yaml packaging/kubernetes/imagefs.yaml packaging/kubernetes/remove.yaml)
lock=proto/control.v1.lock
undo() { git checkout -q HEAD -- CMakeLists.txt $lock "${kit[@]}"; }
trap undo EXIT
sed -i -E "s/^(project\(imagefs VERSION )[0-9.]+ /\1$version /" CMakeLists.txt
sed -i -E "s/^(version: )[0-9.]+$/\1$version/; s/^(appVersion: )\"[0-9.]+\"/\1\"$version\"/; s,(image: .*/imagefs:)[0-9.]+$,\1$version," "${kit[@]}"
tests/lint/version.sh || refuse "the version is not the same everywhere"
tests/lint/api.sh --update || refuse "the control API breaks a promise, or cannot be checked"
files=(CMakeLists.txt CHANGELOG.md packaging/changelog $lock "${kit[@]}")
git diff --quiet HEAD -- "${files[@]}" || git commit -q -m "Release $version" -- "${files[@]}"
trap - EXIT
# Lines with # are headings here, not comments.
printf 'imagefs %s\n\n%s\n' "$version" "$notes" | git tag -a --cleanup=whitespace -F - "$tag"
echo "release: $tag is $(git rev-parse --short HEAD); to publish it: git push REMOTE HEAD $tag"
