#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every flag of open, every attempt to write by root and by users, and afterwards the tree is what it was.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
$PY "$PARITY/image.py" "$T/images"
prepare everything
parity everything opening
parity everything refused
parity everything metadata directories
verdict
