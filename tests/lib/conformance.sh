# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh: containerd's own snapshotter suite, compiled here, against our socket.

# suite NAME PACKAGES [SNAPSHOTS]: builds it from the Go packages below that folder (SNAPSHOTS is the import path of
# package snapshots there), with $GO and further variables of Go as they are; runs it and leaves its words in $T/NAME.out.
suite() {
  local name=$1 packages=$2 snapshots=${3:-github.com/containerd/containerd/snapshots}
  mkdir -p "$T/gopath/src/$name" "$T/runs" "$T/tmp"
  sed "s,github.com/containerd/containerd/snapshots,$snapshots," "$TESTS/conformance/snapshotter_test.go" \
    >"$T/gopath/src/$name/snapshotter_test.go"
  # Go's cache, which is the user's as ccache's is, makes the second build a matter of seconds, in another clone as well.
  (cd "$T/gopath/src/$name" &&
    GO111MODULE=off GOPATH=$T/gopath:$packages GOCACHE=${GOCACHE:-${HOME:-/root}/.cache/go-build} \
      "${GO:-go}" test -c -o "$T/$name.suite" .) || fail "the suite does not compile"
  IMAGEFSD=${IMAGEFS}d IMAGEFS_RUN_DIRS=$T/runs TMPDIR=$T/tmp timeout 300 "$T/$name.suite" -test.root -test.v >"$T/$name.out" 2>&1 ||
    { grep -E '^ *--- FAIL|testsuite.go|panic' "$T/$name.out"; fail "the suite of $name"; }
  ! grep -l 'level=error\| error ' "$T"/runs/*/output || fail "a daemon logged an error"
  same "mounts" "" "$(mounts_below "$T")"
}
passed() { grep -c -- '--- PASS: TestSnapshotter/' "$T/$1.out"; }
skipped() { sed -n 's/.*--- SKIP: \([^ ]*\).*/\1/p' "$T/$1.out"; }
