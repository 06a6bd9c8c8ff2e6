#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 of the daemon while a hundred readers read mounts that the kernel shows: no reader sees an
# error or a wrong byte, the next daemon finds the mounts, and what is not needed ends by itself.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_kernel_mode
image plain many-files
mkdir "$M"/{a,b,rw}
ifs mount -q --mode kernel "oci:$T/images/plain" "$M/a" >/dev/null
ifs mount -q --mode kernel "oci:$T/images/many-files" "$M/b" >/dev/null
ifs mount -q --mode kernel --rw "oci:$T/images/plain" "$M/rw" >/dev/null
$PY - "$M" "$T/stop" >"$T/readers" 2>&1 <<'PY' &
import hashlib, os, sys, threading
top, stop = sys.argv[1:]
files = [os.path.join(d, f) for m in "ab" for d, _, fs in os.walk(f"{top}/{m}") for f in fs]
files = [f for f in files if os.path.isfile(f) and not os.path.islink(f)][:3000]
truth, errors, rounds = {f: hashlib.sha256(open(f, "rb").read()).digest() for f in files}, [], [0] * 100
open(stop + ".begun", "w").close()

def read(k):
    i = k * 7919
    while not os.path.exists(stop):
        f = files[i % len(files)]
        try:
            if hashlib.sha256(open(f, "rb").read()).digest() != truth[f]:
                errors.append(f"{f}: wrong bytes")
            os.stat(f)
        except OSError as e:
            errors.append(str(e))
        i, rounds[k] = i + 1, rounds[k] + 1

threads = [threading.Thread(target=read, args=(k,)) for k in range(100)]
[t.start() for t in threads], [t.join() for t in threads]
print(f"{sum(rounds)} reads, {len(errors)} errors", *errors[:3], sep="\n")
sys.exit(bool(errors) or sum(rounds) < 100)
PY
readers=$!
wait_for 60 "[ -e '$T/stop.begun' ]" || fail "the readers did not begin: $(cat "$T/readers")"
echo kept >"$M/rw/written"
for round in 1 2 3; do
  slay $(daemons)
  same "content without a daemon" "root:x:0:0::/:/bin/sh" "$(cat "$M/a/etc/passwd")"
  same "written without a daemon" kept "$(cat "$M/rw/written")"
  same "mounts listed" 3 "$(ifs ls --json | field 'len(j)')"
  same "all by the kernel" '["kernel"]' "$(ifs ls --json | field 'sorted({m["mode"] for m in j})')"
  for name in a b rw; do same "mounts at $name" 1 "$(mounts_below "$M/$name" | wc -l)"; done
done
# An ordinary end leaves them as well.
ifs stop
wait_for 20 '[ -z "$(daemons)" ]' || fail "still running"
same "content after stop" "root:x:0:0::/:/bin/sh" "$(cat "$M/a/etc/passwd")"
touch "$T/stop"
wait $readers || fail "readers: $(cat "$T/readers")"
cat "$T/readers"
# A daemon that nobody needs ends although things are mounted.
"$IMAGEFS" --root "$ROOT" --run "$RUN" daemon --idle-exit 1 2>"$T/daemon.log" &
idle=$!
wait_for 20 "! kill -0 $idle 2>/dev/null" || fail "the daemon stays though the kernel shows all"
same "mounted all the same" 3 "$(mounts_below "$M" | wc -l)"
# A mount more is of the same file system: its pages are in memory once.
mkdir "$M/more"
ifs mount -q "oci:$T/images/plain" "$M/more" >/dev/null
same "one file system" "$(stat -c %d "$M/a")" "$(stat -c %d "$M/more")"
# Taken away by plain umount(8) while no daemon looks.
ifs stop
umount "$M/a"
same "listed after umount(8)" 3 "$(ifs ls --json | field 'len(j)')"
ifs umount --all
nothing_left "$M"
[ -z "$(mounts_below "$RUN")" ] || fail "private mounts left: $(mounts_below "$RUN")"
