#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kernels of several releases of Debian: an image is shown before its bytes are here and read, daemons are killed,
# stopped and started, mounts are taken away, in the mode that `auto` picks there. IMAGEFS_VM_KERNELS names releases.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
. "$LIB/vm.sh"
need_vm
vm_registry
vm_image app gzip 5 8
publish app
vm_image other zstd 6 3
vm_file "$T/config.toml" config.toml
for suite in ${IMAGEFS_VM_KERNELS:-bookworm trixie sid}; do
  kernel "$suite"
  vm_disk 1024
  begin=$EPOCHSECONDS
  vm_start kernels
  vm_end 800
  echo "== $suite ($((EPOCHSECONDS - begin)) s)"
  grep -v '^END' "$VM_SAID"
done
