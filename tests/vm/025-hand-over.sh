#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Readers live through kills and stops of the daemon on a kernel that cannot send a request again, where fault/064 is
# skipped. On others, too, when they are named.
#   IMAGEFS_VM_KILLS=N (default 5, under each kind of mount)   IMAGEFS_VM_SEED=S   IMAGEFS_VM_KERNELS
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
. "$LIB/vm.sh"
need_vm
seed=${IMAGEFS_VM_SEED:-$SRANDOM}
echo "seed $seed"
vm_registry
vm_image app gzip 5 8
publish app
vm_file "$T/config.toml" config.toml
vm_set SEED "$seed"
vm_set KILLS "${IMAGEFS_VM_KILLS:-5}"
for suite in ${IMAGEFS_VM_KERNELS:-bookworm}; do
  kernel "$suite"
  vm_disk 1024
  vm_start hand-over
  vm_end 900
  echo "== $suite"
  grep -v '^END' "$VM_SAID"
done
