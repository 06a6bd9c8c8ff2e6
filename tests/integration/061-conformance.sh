#!/bin/bash
# containerd's own snapshotter suite, compiled from Debian's golang packages, against our socket.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need go
[ -d /usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite ] || skip "golang-github-containerd-containerd-dev is not installed"

mkdir -p "$T/gopath/src/conformance" "$T/runs" "$T/tmp"
cp "$TESTS/conformance/snapshotter_test.go" "$T/gopath/src/conformance/"
# The cache makes the second build a matter of seconds.
(cd "$T/gopath/src/conformance" &&
  GO111MODULE=off GOPATH=$T/gopath:/usr/share/gocode GOCACHE=${TEST_BUILD:-$SOURCE/build/release}/go-cache \
    nice go test -c -o "$T/suite" .) || fail "the suite does not compile"

IMAGEFSD=${IMAGEFS}d IMAGEFS_RUN_DIRS=$T/runs TMPDIR=$T/tmp timeout 300 "$T/suite" -test.root -test.v >"$T/out" 2>&1 ||
  { grep -E '^ *--- FAIL|testsuite.go|panic' "$T/out"; fail "the suite"; }
passed=$(grep -c -- '--- PASS: TestSnapshotter/' "$T/out")
same "tests that pass" 20 "$passed"
# The suite itself leaves it out ("still fails on some kernels with overlay").
same "tests that the suite skips" TestSnapshotter/Rename "$(sed -n 's/.*--- SKIP: \([^ ]*\).*/\1/p' "$T/out")"
! grep -l 'level=error\| error ' "$T"/runs/*/output || fail "a daemon logged an error"
same "mounts" "" "$(mounts_below "$T")"
