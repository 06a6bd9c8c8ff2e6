#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# scripts/release.sh makes a commit and a tag of a prepared tree, and refuses every other one without a trace. It runs in
# a repository of its own, made of the files that it reads.
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in dpkg-parsechangelog protoc; do
  command -v $program >/dev/null || { echo "skip: $program is not installed"; exit 77; }
done
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
fail() { echo "release: $*"; [ ! -e "$T/out" ] || cat "$T/out"; exit 1; }
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.invalid \
  GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@example.invalid
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

mkdir "$T/tree"
cp --parents CMakeLists.txt cmd/CMakeLists.txt CHANGELOG.md packaging/changelog packaging/kubernetes/chart/Chart.yaml \
  packaging/kubernetes/imagefs.yaml packaging/kubernetes/remove.yaml scripts/release.sh tests/lint/version.sh \
  tests/lint/api.sh tests/lint/api.py proto/control.proto proto/control.v1.lock "$T/tree"
cd "$T/tree"
git init -q .
git add .
git commit -q -m begin
begin=$(git rev-parse HEAD)

# refuse REGEX ARGUMENT...: says so, and HEAD, tags and files are what they were.
refuse() {
  local regex=$1 before status=0
  shift
  before=$(git status --porcelain; git diff HEAD)
  scripts/release.sh "$@" >"$T/out" 2>&1 || status=$?
  [ $status != 0 ] || fail "not refused: $*"
  grep -qE "$regex" "$T/out" || fail "refused, but not for /$regex/: $*"
  [ "$(git rev-parse HEAD) $(git tag)" = "$begin $tags" ] || fail "a refusal left a commit or a tag: $*"
  [ "$(git status --porcelain; git diff HEAD)" = "$before" ] || fail "a refusal changed files: $*"
}
# section VERSION, debian VERSION [DISTRIBUTION]: what who makes a release writes before.
section() { sed -i "s/^## \[Unreleased\]/&\n\n## [$1] - 2030-01-02\n\n### Added\n- What $1 has./" CHANGELOG.md; }
debian() {
  printf 'imagefs (%s) %s; urgency=medium\n\n  * New.\n\n -- a <a@example.invalid>  Wed, 02 Jan 2030 12:00:00 +0000\n\n' \
    "$1" "${2:-unstable}" | cat - packaging/changelog >"$T/changelog"
  cat "$T/changelog" >packaging/changelog
}

tags=
refuse usage
for version in 1 1.2 1.2.3.4 01.2.3 v1.2.3 1.2.x '1.2.3 '; do refuse 'is no version' "$version"; done
refuse 'older than' 0.0.1
refuse 'CHANGELOG.md has no section' 91.2.3
section 91.2.3
refuse 'packaging/changelog begins with' 91.2.3
cp packaging/changelog "$T/debian"
debian 91.2.3 UNRELEASED
refuse 'says UNRELEASED' 91.2.3
cp "$T/debian" packaging/changelog
debian 91.2.3
touch new
refuse 'changes beside the changelogs' 91.2.3
rm new
echo >>CMakeLists.txt
refuse 'changes beside the changelogs' 91.2.3
git checkout -q CMakeLists.txt
sed -i 's/"${PROJECT_VERSION}"/"9"/' cmd/CMakeLists.txt
git commit -q -m other cmd/CMakeLists.txt
begin=$(git rev-parse HEAD)
refuse 'not the same everywhere' 91.2.3
git revert --no-edit HEAD >/dev/null
sed -i 's/^message PinReply {}/message PinReply { string new = 1; }/; s/int64 pid = 2;/int64 pid = 22;/' proto/control.proto
git commit -q -m renumber proto/control.proto
begin=$(git rev-parse HEAD)
refuse 'does not keep: field VersionReply 2 int64 pid' 91.2.3
sed -i 's/int64 pid = 22;/int64 pid = 2;/' proto/control.proto
git commit -q -m new proto/control.proto
begin=$(git rev-parse HEAD)

scripts/release.sh 91.2.3 >"$T/out" 2>&1 || fail "a prepared tree is refused"
[ "$(git log -1 --format=%s)" = "Release 91.2.3" ] || fail "no commit"
[ "$(git grep -hoE '(imagefs:|ersion: "?)91\.2\.3' -- packaging/kubernetes | sort | uniq -c | wc -l)" = 3 ] || fail "the chart has another version"
[ "$(git rev-list --count "$begin..HEAD")" = 1 ] || fail "more than one commit"
[ -z "$(git status --porcelain)" ] || fail "something is left over: $(git status --porcelain)"
grep -q '^project(imagefs VERSION 91\.2\.3 LANGUAGES CXX)$' CMakeLists.txt || fail "the version is not set"
grep -qx 'field PinReply 1 string new' proto/control.v1.lock || fail "the release does not promise what is new"
[ "$(git cat-file -t v91.2.3)" = tag ] || fail "no annotated tag"
[ "$(git rev-parse 'v91.2.3^{commit}')" = "$(git rev-parse HEAD)" ] || fail "the tag is elsewhere"
notes() { git tag -l --format='%(contents)' "$1"; }
[[ $(notes v91.2.3) == $'imagefs 91.2.3\n\n### Added\n- What 91.2.3 has.'* ]] || fail "the tag does not say what is new: $(notes v91.2.3)"
begin=$(git rev-parse HEAD) tags=v91.2.3
refuse 'there already' 91.2.3
refuse 'older than' 90.0.0

# Changelogs that were committed before.
section 91.3.0
debian 91.3.0
git commit -qam prepare
scripts/release.sh 91.3.0 >"$T/out" 2>&1 || fail "a tree with committed changelogs is refused"
[ "$(notes v91.3.0)" = $'imagefs 91.3.0\n\n### Added\n- What 91.3.0 has.' ] || fail "the tag says: $(notes v91.3.0)"
tests/lint/version.sh >"$T/out" 2>&1 || fail "the version is not the same everywhere after a release"
