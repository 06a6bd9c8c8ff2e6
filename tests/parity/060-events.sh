#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# inotify, locks and leases, FIFOs, devices, statfs.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
$PY "$PARITY/image.py" "$T/images"
prepare everything
for topic in events locks special filesystem; do parity everything $topic; done
verdict
