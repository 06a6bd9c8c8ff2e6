#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# As 020, for every odd, long and deep name, and for a directory of 20,000 files.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need umoci
image names many-files
prepare names many-files
parity names directories metadata xattrs root
parity many-files directories metadata xattrs root
verdict
