#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# containerd's own snapshotter suite, compiled from Debian's golang packages, against our socket.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/conformance.sh"
need_root; need go
[ -d /usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite ] || skip "golang-github-containerd-containerd-dev is not installed"
suite machine /usr/share/gocode
same "tests that pass" 20 "$(passed machine)"
# The suite itself leaves it out ("still fails on some kernels with overlay").
same "tests that the suite skips" TestSnapshotter/Rename "$(skipped machine)"
