# SPDX-License-Identifier: Apache-2.0
# An image of a registry, read through the mount that `auto` picks.
say "kernel=$(uname -r) $(fuse_init) up=$(cut -d' ' -f1 /proc/uptime)"
disk
mkdir -p /m/a
begin=$(now)
must ifs mount -q "$REGISTRY/test/app:1" /m/a
say "mode=$(mode_of /m/a) type=$(type_of /m/a) mounted=$(since "$begin")"
right "the mount" /m/a app.truth
say "read=$(since "$begin")"
must ifs umount /m/a
! mounted /m/a || fail "still mounted"
must ifs stop
