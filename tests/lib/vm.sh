# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh (and lazy.sh) by the tests in virtual machines: a kernel of Debian in qemu's software emulation,
# with a system in memory that is made of this machine's own programs, a registry of the host's and a disk.
# What runs in it is tests/vm/guest/NAME.sh, with tests/vm/guest/lib.sh.
VM_CACHE=$SOURCE/build/peers/vm
VM_GUEST=$TESTS/vm/guest
VM=$T/vm
VM_PID=
mkdir -p "$VM/give/vm"

# `make test` has one such test, which is skipped where a machine cannot be had; `make test-vm` demands them.
vm_missing() { [ -z "${IMAGEFS_TEST_VM:-}" ] || fail "$*"; skip "$*"; }
need_vm() {
  local tool
  [ "$(uname -m)" = x86_64 ] || vm_missing "these virtual machines are x86-64's"
  [ "$(id -u)" = 0 ] || vm_missing "needs root"
  for tool in docker-registry openssl strip qemu-system-x86_64 busybox cpio modprobe depmod mkfs.ext4 umoci xz; do
    command -v $tool >/dev/null || vm_missing "$tool is not installed (scripts/deps.sh vm)"
  done
}

# kernel SUITE: from here on machines have the newest kernel of that release of Debian. Unpacked, never installed.
kernel() {
  local dir=$VM_CACHE/$1 modules module file
  timeout -s KILL 500 "$SOURCE/scripts/unpack.sh" --only '^linux-(image|binary|modules|base)-[0-9]' "$1" "$dir" linux-image-amd64 \
    </dev/null >"$T/unpack.out" 2>&1 ||
    { tail -n 3 "$T/unpack.out"; rm -rf "$dir"; vm_missing "no kernel of $1 could be had from the Debian mirror"; }
  # Some releases have them in /boot and /lib, some in /usr/lib/modules.
  KERNEL_IMAGE=$(find "$dir" -name 'vmlinuz*' -type f)
  modules=$(find "$dir/lib/modules" "$dir/usr/lib/modules" -mindepth 1 -maxdepth 1 2>/dev/null || true)
  KERNEL=$(basename "$modules")
  [ -s "$KERNEL_IMAGE" ] && [ -d "$modules/kernel" ] || fail "the package of $1 has no kernel in it: $KERNEL_IMAGE $modules"
  local root=$VM/modules-$1
  VM_MODULES=$root.cpio
  [ ! -e "$VM_MODULES" ] || return 0
  mkdir -p "$root/lib/modules" "$root/cpio/modules"
  cp -al "$modules" "$root/lib/modules/" 2>/dev/null || cp -a "$modules" "$root/lib/modules/"
  depmod -b "$root" "$KERNEL" || fail "depmod"
  for module in virtio_pci virtio_blk virtio_net ext4 fuse erofs overlay loop; do
    modprobe -d "$root" -S "$KERNEL" --show-depends "$module" 2>"$T/modprobe.err" ||
      { cat "$T/modprobe.err"; fail "the kernel of $1 has no $module"; }
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$root/list"
  while read -r file; do
    module=$(basename "${file%.xz}")
    case $file in *.xz) xz -dc "$file" >"$root/cpio/modules/$module" ;; *) cp "$file" "$root/cpio/modules/$module" ;; esac
    echo "$module" >>"$root/cpio/modules/list"
  done <"$root/list"
  pack "$root/cpio" "$VM_MODULES"
}

pack() { (cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet) >"$2"; }  # DIR FILE

# The programs of the machine, once a test: with the libraries that ldd names.
vm_system() {
  local file root=$VM/system
  [ ! -e "$root.cpio" ] || return 0
  mkdir -p "$root"/{bin,etc,vm}
  cp "$(command -v busybox)" "$root/bin/busybox"
  cp "$(command -v bash)" "$root/bin/bash"
  for file in imagefs imagefsd imagefs-holder; do
    strip -o "$root/bin/$file" "$(dirname "$IMAGEFS")/$file"
  done
  for file in fusermount3 "$@"; do cp "$(command -v "$file")" "$root/bin/"; done
  for file in $({ ldd "$root"/bin/* 2>/dev/null || true; } | grep -oE '/[^ )]+' | grep -F .so | sort -u); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
  gcc -O -static -o "$root/bin/fuse_init" "$VM_GUEST/fuse_init.c"
  echo 'root:x:0:0:root:/root:/bin/bash' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  cp "$VM_GUEST/init" "$root/init"
  cp "$VM_GUEST/lib.sh" "$root/vm/"
  pack "$root" "$root.cpio"
}

# vm_set NAME VALUE, vm_file FILE NAME: variables and files (/vm/NAME) of the machines that start from here on.
vm_set() { printf '%s=%q\n' "$1" "$2" >>"$VM/give/vm/environment"; }
vm_file() { cp "$1" "$VM/give/vm/$2"; }

# vm_disk MIB: a disk with an empty file system. Sets DISK.
vm_disk() {
  DISK=$VM/disk
  rm -f "$DISK"
  truncate -s "$1M" "$DISK"
  mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$DISK" </dev/null >"$T/mkfs.out" 2>&1 || { cat "$T/mkfs.out"; fail "mkfs.ext4"; }
}

# vm_start SCENARIO [QEMU_OPTION...]: sets VM_PID, VM_SAID (what it says to us) and VM_CONSOLE (the kernel's words).
# The disk is $DISK, or what $DRIVE says of it.
vm_start() {
  local scenario=$1 number
  shift
  vm_system
  cp "$VM_GUEST/$scenario.sh" "$VM/give/vm/scenario.sh"
  [ -e "$VM/give/vm/config.toml" ] || : >"$VM/give/vm/config.toml"
  pack "$VM/give" "$VM/give.cpio"
  cat "$VM/system.cpio" "$VM_MODULES" "$VM/give.cpio" >"$VM/initrd"
  number=$(find "$VM" -maxdepth 1 -name 'said*' | wc -l)
  VM_SAID=$VM/said.$number VM_CONSOLE=$T/console.$number.log
  : >"$VM_SAID"
  # The page cache of the host is as good as a disk here: who kills qemu does not kill the host.
  nice -n 5 qemu-system-x86_64 -name "$T/$scenario" -machine q35 -cpu max -accel tcg -m "${VM_MEMORY:-1024}" -no-reboot -nographic \
    -nodefaults -no-user-config -monitor none -serial "file:$VM_CONSOLE" -serial "file:$VM_SAID" \
    -kernel "$KERNEL_IMAGE" -initrd "$VM/initrd" -append "console=ttyS0 loglevel=5 panic=-1" \
    -drive "${DRIVE:-file=$DISK,format=raw,if=none,cache=unsafe},id=disk" -device virtio-blk-pci,drive=disk \
    -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= "$@" </dev/null >"$T/qemu.log" 2>&1 &
  VM_PID=$!
  TEST_PIDS+=($VM_PID)
}
vm_runs() { kill -0 "$VM_PID" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$VM_PID/status" 2>/dev/null; }
vm_says() { grep -qE "$1" "$VM_SAID"; }
# vm_until SECONDS REGEX: until it says so.
vm_until() {
  wait_for "$1" "vm_says '$2|^FAILED' || ! vm_runs" || { vm_words; fail "the machine does not say '$2' within $1 s"; }
  vm_says "$2" && return 0
  wait_for 20 "! vm_runs" || true  # it sends the end of the daemon's log
  vm_words
  fail "the machine did not say '$2'"
}
vm_words() {
  echo "--- what the machine said"; tail -n 100 "$VM_SAID"
  echo "--- its console"; tail -n 15 "$VM_CONSOLE" 2>/dev/null | cut -c1-300 || true
  cat "$T/qemu.log"
}
# vm_end SECONDS: the scenario comes to its end, and the machine is off.
vm_end() {
  vm_until "$1" '^END'
  wait_for 30 "! vm_runs" || fail "the machine does not go off"
}
# The shell's own word about the killed process is none of the test's.
vm_kill() { slay "$VM_PID"; wait "$VM_PID" 2>/dev/null || true; }

# vm_registry: a registry of the host, with TLS as elsewhere than on loopback. Its name for the machine is $REGISTRY there.
vm_registry() {
  start_registry registry tls
  export IMAGEFS_CA_FILE=$T/registry/ca.pem
  vm_file "$IMAGEFS_CA_FILE" ca.pem
  vm_set REGISTRY "10.0.2.2:${REGISTRY##*:}"
}

# vm_image NAME FORMAT SEED MIB: an image as lazy_image makes them, and its truth, /vm/NAME.truth: the tree that umoci
# makes of the same image in gzip, the format that it knows.
vm_image() {
  lazy image "$T/images/$1" "${@:2}"
  push "$T/images/$1" "test/$1:1" --ca "$IMAGEFS_CA_FILE"
  lazy image "$T/plain-$1" gzip "${@:3}"
  umoci unpack --image "$T/plain-$1:latest" "$T/unpacked-$1" >"$T/umoci.out" 2>&1 || { tail -n 3 "$T/umoci.out"; fail "umoci"; }
  bash -c '. "$1"; listing "$2"' - "$VM_GUEST/lib.sh" "$T/unpacked-$1/rootfs" >"$VM/give/vm/$1.truth"
  [ "$(grep -c . "$VM/give/vm/$1.truth")" -gt 100 ] || fail "the truth is small"
}
