#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# SIGTERM and `stop` keep the mounts recorded, so that the next daemon brings them back;
# `stop --unmount` does not.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain
mkdir "$M/a"
ifs mount -q "oci:$T/images/plain" "$M/a" >/dev/null
for how in stop term; do
  pid=$(daemons)
  if [ $how = stop ]; then ifs stop; else kill -TERM "$pid"; fi
  wait_for 20 '[ -z "$(daemons)" ]' || fail "still running after $how"
  ifs images >/dev/null
  wait_for 20 "grep -q root '$M/a/etc/passwd' 2>/dev/null" || fail "not mounted again after $how"
done
ifs stop --unmount
wait_for 20 '[ -z "$(daemons)" ]' || fail "still running"
nothing_left "$M"
ifs images >/dev/null
same "nothing comes back" "[]" "$(ifs ls --json | tr -d ' \n')"
