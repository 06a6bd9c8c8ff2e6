#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The machine loses its power: of every file of the store that was not synced since, nothing, a part, or zeros
# are left, while the records are all there. The next boot shows the right bytes, and fetches what is lost.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need strace
# The boot's id is one of this test's own, in a mount namespace of its own.
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  status=0
  IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
  exit $status
fi
. "$LIB/lazy.sh"
next_boot() { cat /proc/sys/kernel/random/uuid >"$T/boot"; }
next_boot
mount --bind "$T/boot" /proc/sys/kernel/random/boot_id
AT_END+=(same_boot)
same_boot() { umount /proc/sys/kernel/random/boot_id; }
start_registry registry
lazy_image app gzip 5 4
publish app
truth app "$T/truth"
ref=$REGISTRY/test/app:1
mkdir -p "$M/a"
watched() {
  ifs ls >/dev/null
  strace -f -qq -y -p "$(daemons_of "$RUN")" -e trace=fsync,fdatasync -o "$T/syncs" &
  TRACER=$!
  TEST_PIDS+=($TRACER)
  wait_for 20 "grep -q '^TracerPid:.*[1-9]' /proc/$(daemons_of "$RUN")/status" || fail "no strace"
}
power_off() {
  kill -INT $TRACER 2>/dev/null && wait $TRACER 2>/dev/null || true
  slay $(daemons_of "$RUN")
  for mount in $(mounts_below "$M/a") $(mounts_below "$RUN"); do umount -l "$mount"; done
  rm -rf "$RUN"
  next_boot
}
# lose HOW: every file that no sync was seen of.
lose() {
  $PY - "$ROOT" "$T/syncs" "$1" <<'END'
import os
import re
import sys
root, syncs, how = sys.argv[1:]
synced = {path.removesuffix(".tmp") for path in re.findall(r"f(?:data)?sync\(\d+<([^>]*)>", open(syncs).read())}
lost = []
for top in ("layers", "chains"):
    for folder, _, files in os.walk(os.path.join(root, top)):
        for name in files:
            path = os.path.join(folder, name)
            if path in synced:
                continue
            size = os.path.getsize(path)
            lost.append(name)
            if how == "gone":
                os.unlink(path)
            elif how == "empty":
                os.truncate(path, 0)
            elif how == "cut":
                os.truncate(path, size // 2 // 4096 * 4096)
            else:
                begin = 0 if how == "zeros" else size // 2 // 4096 * 4096
                with open(path, "r+b") as file:
                    file.seek(begin)
                    file.write(bytes(size - begin))
print(f"{how}: {len(lost)} files lost:", *sorted(set(lost))[:8])
END
}
for state in filling written complete; do
  for how in zeros half-zeros empty cut gone; do
    store "$state-$how"
    watched
    case $state in
      filling)
        ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
        cat "$M/a/usr/lib/random" "$M/a/usr/share/doc/1/45" >/dev/null
        ;;
      written) ifs mount -q --eager --mode fuse "$ref" "$M/a" >/dev/null ;;
      complete) ifs pull -q "$ref" >/dev/null ;;
    esac
    power_off
    lose $how
    if [ $state = complete ]; then
      ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null || fail "$state, $how: no mount"
    else
      ifs ls >/dev/null
      wait_for 30 'mountpoint -q "$M/a"' || fail "$state, $how: the mount does not come back"
    fi
    $PY "$LIB/damage.py" read "$T/truth" "$M/a" >"$T/read" || fail "$state, $how: $(cat "$T/read")"
    ifs umount "$M/a"
    ifs stop
  done
done
