#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One virtual machine with the kernel of this machine's release of Debian: it boots, mounts an image of a registry and
# reads every byte right. The rest of tests/vm is run by `make test-vm`.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
. "$LIB/vm.sh"
need_vm
kernel "$("$SOURCE/scripts/mirror.sh" suite)"
vm_registry
vm_image app gzip 5 4
vm_disk 512
vm_start smoke
vm_end 400
cat "$VM_SAID"
