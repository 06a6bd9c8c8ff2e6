#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A node whose store is at its limit: containers of containerd read all of an image that does not fit, several times, and
# find every byte; `images --all` shows who uses the image; nothing of it goes while a container runs.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/containerd.sh"
. "$LIB/snapshots.sh"
. "$LIB/lazy.sh"
need_containerd 1
start_registry registry
plain_host "$REGISTRY"
pause_image
layered_image app
publish app
ref=$REGISTRY/test/app:1
configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"' '[store]' 'limit = "8M"' 'reserve = "none"'
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
serve --config "$T/config.toml"
start_containerd containerd 1 imagefs
cri pull "$ref" >"$T/pulled"
pod=$(pod limited)
id=$(container "$pod" limited main "$ref" sleep 1000)
right=$(layered_sum)
for round in 1 2 3; do
  same "round $round" "$right" "$(exec_in "$id" 'cat /data/* | sha256sum' | cut -d" " -f1)"
  echo 3 >/proc/sys/vm/drop_caches
  used=$(du -s -B1 --exclude=snapshots "$ROOT" | cut -f1)
  [ "$used" -le $((16 << 20)) ] || fail "$used bytes are used"
done
[ "$(counter fill_evicted_bytes)" -gt 0 ] || fail "nothing was given back: $(ifs df)"
same "reads that failed" 0 "$(counter fill_reads_failed)"
same "listed images" 0 "$(ifs images --json | field 'len(j)')"
same "who uses it" "containerd k8s.io 1" "$(ifs images --all --json | field '[" ".join([u["kind"], u["name"], str(u["containers"])]) for i in j if i["reference"].startswith("'"$ref"'") for u in i["used_by"]][0]')"
ifs images --all | grep -q 'not listed.*containerd k8s.io (1)' || fail "images --all: $(ifs images --all)"
ifs prune --all >/dev/null
same "after a prune" "$right" "$(exec_in "$id" 'cat /data/* | sha256sum' | cut -d" " -f1)"
