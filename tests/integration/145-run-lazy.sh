#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `run` does not wait for an image with a published index: its program runs, as root and as a user, when a fraction of the
# bytes has come; it goes on when the daemon is replaced.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need setpriv
open_fuse
home='' uid=''
user_home "$T/user"
start_registry registry
start_shaper line
$PY - "$LIB" "$T/images/app" <<'P'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
low = host_tar(["sh", "cat", "sleep"])
for name in ("proc", "sys", "dev", "etc"): low.dir(name)
high = Tar().file("small", b"small\n").file("large", random.Random(1).randbytes(16 << 20)).file("last", b"last\n")
simple_image(sys.argv[2], [Layer(low), Layer(high, blob=gzipped(high.bytes(), 1))])
P
push "$T/images/app" test/app:1
publish app
ref=$SHAPED/test/app:1
fraction() { [ "$(sent app)" -lt $((8 << 20)) ] || fail "$1: $(sent app) bytes were sent"; }

store lazy
forget_requests
same "as root" small "$(ifs run -q "$ref" cat /small)"
fraction "as root"
# The daemon ends while the program runs; what it had not fetched comes from the next one.
mkfifo "$T/go"
ifs run -q --bind "$T/go:/go" "$ref" sh -c 'echo begun; read -r word </go; cat /last' >"$T/said" &
wait_for 20 'grep -qx begun "$T/said"' || fail "it does not start"
ifs stop
ifs ls >/dev/null
echo go >"$T/go"
wait $! || fail "status $?"
same "by the next daemon" "begun last" "$(xargs <"$T/said")"
fraction "until the end"
ifs stop

forget_requests
user() { as_user env IMAGEFS_CONFIG="$T/config.toml" "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
chmod 644 "$T/config.toml"
same "as a user" last "$(user run -q "$ref" cat /last)"
fraction "as a user"
user stop
nothing_left "$home"
