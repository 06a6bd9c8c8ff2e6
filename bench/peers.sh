#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The programs that `bench/run.py --only peers` compares with, into build/peers: containerd 2.3 and the SOCI snapshotter, built
# from their Go modules at the versions given here (GO=PROGRAM names another go, which must be 1.26.3 or newer), and Debian
# sid's ctr-remote, containerd 2.1 and erofs-utils, unpacked. What is there already is kept.
# stargz-snapshotter publishes no module of its command: put containerd-stargz-grpc of a release, 0.18.2 is what is compared,
# into build/peers/stargz.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=$PWD/build/peers
CONTAINERD=github.com/containerd/containerd/v2 CONTAINERD_VERSION=v2.3.4
SOCI=github.com/awslabs/soci-snapshotter SOCI_VERSION=v0.16.1
# The module of the commands has no version of its own; this is its state of that release's time.
SOCI_COMMANDS=$SOCI/cmd@v0.0.0-20260930233240-61147fe7c929
go() { GOTOOLCHAIN=local GOFLAGS=-mod=mod nice -n 10 "${GO:-$(type -P go)}" "$@"; }

scripts/unpack.sh sid "$peers/containerd" containerd
scripts/unpack.sh sid "$peers/erofs" erofs-utils
scripts/unpack.sh sid "$peers/lazy" soci-snapshotter stargz-snapshotter
type -P "${GO:-go}" >/dev/null || { echo "peers.sh: no go; install it, or name it by GO=PROGRAM" >&2; exit 1; }

[ -x "$peers/containerd-2.3/ctr" ] ||
  GOBIN=$peers/containerd-2.3 CGO_ENABLED=0 go install -p 2 $CONTAINERD/cmd/{containerd,containerd-shim-runc-v2,ctr}@$CONTAINERD_VERSION

if [ ! -x "$peers/soci/soci-snapshotter-grpc" ]; then
  # Its go.mod replaces the library by the folder above it, which a module does not have.
  module=$(go mod download -json $SOCI_COMMANDS | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  rm -rf "$peers/soci.build"
  cp -r --no-preserve=mode "$module" "$peers/soci.build"
  (cd "$peers/soci.build" &&
    go mod edit -dropreplace=$SOCI@v0.0.0 -dropreplace=$SOCI@v0.0.0-local -require=$SOCI@$SOCI_VERSION &&
    mkdir -p "$peers/soci" && go build -p 2 -o "$peers/soci/" ./soci ./soci-snapshotter-grpc)
  rm -rf "$peers/soci.build"
fi
