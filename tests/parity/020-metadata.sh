#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Attributes, names, extended attributes and directories of images of the golden suite, and of the parity suite's own.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need umoci
names=(plain whiteouts replace implied hardlinks xattrs no-xattrs special times owners sparse)
image "${names[@]}"
$PY "$PARITY/image.py" "$T/images"
prepare everything "${names[@]}"
for name in everything "${names[@]}"; do parity "$name" directories metadata xattrs root; done
verdict
