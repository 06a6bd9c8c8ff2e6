#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every way to read: offsets, O_DIRECT, mappings, transfers, advice, holes, many threads.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need umoci
image sparse big-file
$PY "$PARITY/image.py" "$T/images"
prepare everything sparse big-file
for topic in threads reading mapping transfer; do parity everything $topic; done
parity sparse transfer mapping reading
parity big-file mapping threads reading
verdict
