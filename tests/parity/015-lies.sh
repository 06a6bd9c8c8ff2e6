#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every kind of check can fail: one function after another lies, on one side only, and the comparison says what about.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
$PY "$PARITY/image.py" "$T/images"
on_disk everything
read_only "$T/disk/everything"
timeout 100 $PY "$PARITY/lies.py" "$T/disk/everything"
