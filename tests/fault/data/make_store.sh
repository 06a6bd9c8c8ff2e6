#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# make_store.sh FILE: what tests/fault/067-upgrade.sh opens, a store as the programs of $IMAGEFS leave it, packed. To be
# run with a release's own programs; FILE is then store-VERSION.tar.xz beside this script.
. "$(dirname "$0")/../../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
$PY - "$LIB" "$T/images/app" <<'PY'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
layers = []
for seed in (1, 2):
    rng = random.Random(seed)
    t = Tar().dir(f"d{seed}")
    block = rng.randbytes(45000)  # far enough apart that gzip does not see that it comes again, and xz does
    for k in range(8 if seed == 1 else 1):
        t.file(f"d{seed}/file{k}", block + b"%d" % k)
    for k in range(30):
        t.file(f"d{seed}/small{k}", b"%d" % k * k)
    layers.append(Layer(t, blob=gzipped(t.bytes(), 9)))
simple_image(sys.argv[2], layers)
PY
push "$T/images/app" test/app:1
publish app
truth app "$T/truth"
image whiteouts; push "$T/images/whiteouts" test/other:1
mkdir -p "$M/a" "$M/b" "$T/out"
ref=$REGISTRY/test/app:1
store release
# One that was shown before it was proven, so that a layer has two names, and one by passes.
ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
ifs pull -q --wait "$M/a" >/dev/null
ifs pull -q "$REGISTRY/test/other:1" >/dev/null
wait_for 20 'ifs status --json | field "all(l[\"state\"] == \"complete\" for l in j[\"layers\"])" | grep -q true' || fail "never complete"
wait_for 20 '[ -n "$(find "$ROOT/layers" -name data -links 2)" ]' || fail "no layer has two names"
ifs umount --all; ifs stop
wait_for 20 '[ -z "$(daemons_of "$RUN")" ]' || fail "still running"
(cd "$T/truth" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$T/out/files"
echo "$ref" >"$T/out/reference"
cp -a --sparse=always "$ROOT" "$T/out/store"
rm -f "$T"/out/store/{control.sock,lock,start.lock}
tar -C "$T/out" --sparse --numeric-owner -c . | xz -9e >"$1"
ls -l "$1"
