#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Files of an image with a published index are read without a mount and without the rest of it; a registry that goes away
# and a damaged layer are failures, never a short file; an export does not depend on what was lazy before.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need tar
start_registry registry
start_shaper line
lazy_image app gzip
publish app
truth app "$T/truth"
ref=$SHAPED/test/app:1
blobs=$(lazy manifest "$REGISTRY/test/app" 1 2>/dev/null | field 'sum(l["size"] for l in j["layers"])')

store lazy
forget_requests
same "names" "$(cd "$T/truth" && find . -mindepth 1 -printf '/%P\n' | sort)" "$(ifs ls-files "$ref" | grep -vx / | sort)"
same "sent for a list" 0 "$(sent app)"
ifs cat "$ref" /usr/share/doc/1/45 | cmp - "$T/truth/usr/share/doc/1/45" || fail "cat"
small=$(sent app)
[ "$small" -gt 0 ] && [ "$small" -lt $((blobs / 2)) ] || fail "one small file cost $small of $blobs bytes"
# Both images are the same and one of them is lazy: nothing more is read.
same "differences" "" "$(ifs diff "$ref" "$ref" 2>/dev/null)"
same "sent for a comparison with itself" "$small" "$(sent app)"
ifs profile show "$ref" >/dev/null 2>&1 && fail "what was read counts as the first run"

# The registry goes away: what is local can be read, and nothing else looks whole.
registry_dies
ifs cat "$ref" /usr/share/doc/1/45 | cmp - "$T/truth/usr/share/doc/1/45" || fail "cat of what is local"
status=0; ifs cat --timeout 20 "$ref" $(cd "$T/truth" && find . -type f -size +64k -printf '/%P ') >"$T/cut" 2>"$T/err" || status=$?
[ $status != 0 ] && [ -s "$T/err" ] || fail "bytes that cannot come: status $status"
mkdir "$T/dst"
status=0; ifs cp --timeout 20 "$ref:/usr" "$T/dst" 2>"$T/err" || status=$?
[ $status != 0 ] || fail "a tree that cannot come"
same "left of cp" "" "$(find "$T/dst" -name '.imagefs-cp-*')"
registry_returns

# The archive of what was lazy is that of what never was.
store complete
sum=$(ifs export "$ref" | sha256sum); ifs stop
store lazy
same "the archive" "$sum" "$(ifs export "$ref" | sha256sum)"
ifs cat "$ref" /usr/share/doc/1/45 | cmp - "$T/truth/usr/share/doc/1/45" || fail "cat of what is complete"
ifs stop

# A damaged layer: the tar has no end.
store complete
data=$(find "$ROOT/layers" -name data -size +64k | head -1)
$PY - "$data" <<'PY'
import os, sys
size = os.path.getsize(sys.argv[1])
os.truncate(sys.argv[1], size // 2)
PY
registry_dies
status=0; ifs export --pull never "$ref" >"$T/cut.tar" 2>"$T/err" || status=$?
[ $status != 0 ] || fail "the export of a damaged layer succeeded"
[ "$(tail -c 1024 "$T/cut.tar" | tr -d '\0' | wc -c)" != 0 ] || [ ! -s "$T/cut.tar" ] || fail "a tar that was cut short has an end"
ifs stop
