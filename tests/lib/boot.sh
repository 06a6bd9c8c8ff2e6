# SPDX-License-Identifier: Apache-2.0
# Sourced by tests of the installed package: a Debian with systemd as its first process, in systemd-nspawn.
need systemd-nspawn; need debootstrap; need nsenter
BOOT_CACHE=$SOURCE/build/peers/systemd

# boot_tree DEB: makes $T/tree, a minimal Debian with what the package depends on. The tree is made once for each set
# of dependencies and kept in the build folder.
boot_tree() {
  local suite depends stamp=$BOOT_CACHE/.made
  suite=$("$SOURCE/scripts/mirror.sh" suite)
  depends=$(dpkg-deb -f "$1" Depends)
  if [ "$(cat "$stamp" 2>/dev/null)" != "$suite $depends" ]; then
    rm -rf --one-file-system "$BOOT_CACHE" && mkdir -p "$BOOT_CACHE"
    timeout 300 debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,fuse3,ca-certificates "$suite" \
      "$BOOT_CACHE" "$("$SOURCE/scripts/mirror.sh" uri)" >"$T/debootstrap.out" 2>&1 ||
      { tail -n 5 "$T/debootstrap.out"; fail "debootstrap"; }
    timeout 200 chroot "$BOOT_CACHE" apt-get -y -q satisfy "$depends" >"$T/satisfy.out" 2>&1 ||
      { tail -n 5 "$T/satisfy.out"; fail "the packages that imagefs depends on"; }
    rm -rf "$BOOT_CACHE"/var/cache/apt/archives/*.deb "$BOOT_CACHE"/var/lib/apt/lists/*
    echo "$suite $depends" >"$stamp"
  fi
  cp -a --reflink=auto "$BOOT_CACHE" "$T/tree"
}

# boot: starts it, with the network of this machine, and waits until it is up. Sets LEADER, its first process.
boot() {
  local state
  # Its own cgroup version; nobody here keeps a register of machines.
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe \
    --machine="test-$$" --directory="$T/tree" --bind=/dev/fuse --bind=/dev/autofs --capability=all --link-journal=no --resolv-conf=off \
    --timezone=off </dev/null >"$T/boot.log" 2>&1 &
  NSPAWN=$!
  TEST_PIDS+=($NSPAWN)
  wait_for 30 "LEADER=\$(pgrep -P $NSPAWN -x systemd)" || { cat "$T/boot.log"; fail "no first process"; }
  # Degraded: some unit of Debian's own cannot work in a container.
  wait_for 60 'state=$(inside systemctl is-system-running 2>/dev/null); [ "$state" = running ] || [ "$state" = degraded ]' ||
    fail "systemd does not come up: $state"
}

shut_down() {
  inside systemctl poweroff
  wait_for 60 "! kill -0 $NSPAWN 2>/dev/null" || fail "it does not shut down"
}

# inside COMMAND...: runs it there.
inside() { timeout -k 5 120 nsenter -t "$LEADER" -m -u -i -n -p -C --root --wd -- "$@"; }

# What nspawn leaves in the control groups of this machine, once its last process is gone.
remove_boot_groups() {
  find /sys/fs/cgroup -depth -type d '(' -path '/sys/fs/cgroup/*/payload*' -o -path '/sys/fs/cgroup/*/supervisor*' ')' \
    -exec rmdir {} + 2>/dev/null
}
boot_leftovers() {
  slay ${NSPAWN:-} ${LEADER:-}
  wait_for 5 remove_boot_groups || true
}
AT_END+=(boot_leftovers)
