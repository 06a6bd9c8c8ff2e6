#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers of containerd from a shared store: the registry is asked for the image and who may have it, and sends no
# layer; the container reads every byte, also after the daemon was killed.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/containerd.sh"
. "$LIB/snapshots.sh"
. "$LIB/lazy.sh"
need_containerd 1
start_registry registry
start_proxy proxy
plain_host "$REGISTRY"
plain_host "$PROXY"
pause_image
layered_image app
ref=$PROXY/test/app:1
(store maker && ifs export-store -q "$T/shared" "$ref" >/dev/null && ifs stop)
: >"$BEGAN"
configure '[store]' "shared = [\"$T/shared\"]"
serve --config "$T/config.toml"
start_containerd containerd 1 imagefs
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
cri pull "$ref" >"$T/pulled"
pod=$(pod shared)
id=$(container "$pod" shared main "$ref" sleep 1000)
right=$(layered_sum)
same "bytes" "$right" "$(exec_in "$id" 'cat /data/* | sha256sum' | cut -d" " -f1)"
layers=$($PY -c 'import sys; sys.path.insert(0, sys.argv[1]); from lazy import *
print("|".join(layers_of(sys.argv[2])))' "$LIB" "$T/images/app")
same "layers that were sent" 0 "$(grep -cE "GET .*/blobs/($layers)" "$BEGAN" || true)"
grep -qE "HEAD .*/blobs/($layers)" "$BEGAN" || fail "the registry was not asked who may have them: $(cat "$BEGAN")"
[ "$(du -s -B1 "$ROOT/layers" | cut -f1)" -lt 1000000 ] || fail "a copy was made: $(du -a "$ROOT/layers")"
stop_serving KILL
serve --config "$T/config.toml"
same "bytes after a kill" "$right" "$(exec_in "$id" 'cat /data/* | sha256sum' | cut -d" " -f1)"
