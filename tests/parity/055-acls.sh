#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Access control lists that an image brings as extended attributes let in and keep out whom they name.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
$PY "$PARITY/image.py" "$T/images"
prepare acls
parity acls metadata xattrs users
verdict
