#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A daemon is killed or stopped under a mount that needs it: programs see an error or the right tree, never the
# directory below, and what they write never lands there. Mounted plainly, writable, on a directory that is a mount
# point itself, and while its bytes come.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
image plain
start_registry registry
start_shaper line
lazy_image app gzip 3 2
publish app
mkdir -p "$M"/{plain,rw,point,lazy}
mount -t tmpfs below "$M/point"
touch "$M/point/below"
ifs mount -q --mode fuse "oci:$T/images/plain" "$M/plain" >/dev/null
ifs mount -q --mode fuse --rw "oci:$T/images/plain" "$M/rw" >/dev/null
ifs mount -q --mode fuse "oci:$T/images/plain" "$M/point" >/dev/null
ifs mount -q "$SHAPED/test/app:1" "$M/lazy" >/dev/null
cat >"$T/look.py" <<'PY'
import collections, errno, os, sys
top, out = sys.argv[1:]
seen, bad = collections.Counter(), []
known = {"plain": "etc/passwd", "rw": "etc/passwd", "point": "etc/passwd", "lazy": "etc"}
dead = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
os.close(os.open(out + ".begun", os.O_CREAT, 0o644))
while not os.path.exists(out + ".stop"):
    for name, path in known.items():
        for what in (lambda: os.stat(f"{top}/{name}/{path}"), lambda: os.listdir(f"{top}/{name}") or bad.append(f"{name} is empty"),
                     lambda: os.open(f"{top}/{name}/{path}", os.O_RDONLY | os.O_CLOEXEC)):
            try:
                got = what()
                if type(got) is int: os.close(got)
                seen["right"] += 1
            except OSError as e:
                seen[errno.errorcode[e.errno]] += 1
                if e.errno not in dead: bad.append(f"{name}: {e}")
        if name == "rw": continue
        try:
            os.mkdir(f"{top}/{name}/written")
            bad.append(f"{name}: it could be written to")
        except OSError as e:
            if e.errno not in (errno.EROFS, *dead): bad.append(f"{name}: mkdir: {e}")
print(dict(seen), *bad[:5], sep="\n")
sys.exit(bool(bad) or seen["right"] == 0)
PY
$PY "$T/look.py" "$M" "$T/look" >"$T/seen" 2>&1 &
looker=$!
wait_for 20 "[ -e '$T/look.begun' ]" || fail "the looker did not begin"
for round in 1 2 3 4 5 6; do
  if [ $round -le 4 ]; then slay $(daemons); else ifs stop; fi
  ifs images >/dev/null
  for name in plain rw point; do
    wait_for 20 "grep -q root '$M/$name/etc/passwd' 2>/dev/null" || fail "round $round: $name is not there again"
  done
  wait_for 20 "[ -n \"\$(ls '$M/lazy')\" ]" || fail "round $round: the lazy one is not there again"
done
touch "$T/look.stop"
wait $looker || fail "seen: $(cat "$T/seen")"
cat "$T/seen"
for name in plain rw point lazy; do
  [ "$(mounts_below "$M/$name" | wc -l)" -le 2 ] || fail "dead mounts pile up at $name"
done
ifs umount --all
same "what lies below" "below" "$(ls "$M/point")"
umount "$M/point"
rmdir "$M"/{plain,rw,point,lazy} || fail "something was written below a mount"
