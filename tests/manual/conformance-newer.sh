#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The suites of containerd 1.7 and 2.x, with Debian sid's Go, against our socket. Not part of `make test`: it unpacks 2.7
# GB. IMAGEFS=build/release/imagefs tests/manual/conformance-newer.sh
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/conformance.sh"
need_root
peer=$SOURCE/build/peers/suite
"$SOURCE/scripts/unpack.sh" sid "$peer" golang-go golang-github-containerd-containerd-dev
containerd=github.com/containerd/containerd
GOROOT=$(echo "$peer"/usr/lib/go-*)
GO=$GOROOT/bin/go
export GOROOT GOTOOLCHAIN=local
for snapshots in $containerd/snapshots $containerd/v2/core/snapshots; do
  name=v1
  [ "$snapshots" = $containerd/snapshots ] || name=v2
  suite $name "$peer/usr/share/gocode" "$snapshots"
  same "tests that pass" 21 "$(passed $name)"
  same "tests that the suite skips" "" "$(skipped $name)"
done
