#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What users, and root without its capabilities, may do by the mode bits; programs, also setuid and with capabilities.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need umoci
image special owners xattrs
$PY "$PARITY/image.py" "$T/images"
prepare everything special owners xattrs
parity everything programs
for name in everything special owners xattrs; do parity $name users; done
verdict
