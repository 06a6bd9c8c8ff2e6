#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# containerd gets an image before its bytes are here when a key of the fleet has signed its index, and by a full pass
# when anybody could have pushed it; so does an image that is named by its digest.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need minisign
start_registry registry
lazy_image app gzip 2 6
minisign -G -W -p "$T/fleet.pub" -s "$T/fleet.key" >/dev/null
minisign -G -W -p "$T/other.pub" -s "$T/other.key" >/dev/null
pinned=$REGISTRY/test/app@$(manifest_of app)
sources() { state "$1" | field '" ".join(sorted({l["source"] for l in j["layers"]}))'; }
counter() { ifs status --json | field "j['counters']['$1']"; }
mkdir -p "$M/a"

pull_by_containerd() {  # NAME KEY...: prints how many layers were shown before their bytes were here
  local name=$1
  shift
  store "$name"
  configure '[fill]' 'background = false' '[index]' "keys = [$(printf '"%s",' "$@")]"
  serve --config "$T/config.toml"
  start_containerd "c$name" 1 imagefs
  cri pull "$REGISTRY/test/app:1" >/dev/null
  lazy_layers=$(counter layers_lazy)
  stop_containerd
}

publish app
pull_by_containerd unsigned "$T/fleet.pub"
same "unsigned: layers shown early" 0 "$lazy_layers"
ifs mount -q "$pinned" "$M/a" >/dev/null
same "unsigned, by digest" proven "$(sources "$M/a")"
ifs umount "$M/a"
stop_serving

publish app --sign "$T/fleet.key"
pull_by_containerd signed "$T/fleet.pub"
same "signed: layers shown early" 2 "$lazy_layers"
ifs mount -q "$pinned" "$M/a" >/dev/null
same "signed, by digest" signed "$(sources "$M/a")"
ifs pull -q --wait "$M/a" >/dev/null
same "signed, once all is here" proven "$(sources "$M/a")"
ifs umount "$M/a"
stop_serving

pull_by_containerd other "$T/other.pub"
same "signed by another key: layers shown early" 0 "$lazy_layers"
stop_serving

# A signature over another index is none.
lazy lie "$REGISTRY/test/app" "$(manifest_of app)" mode
pull_by_containerd bent "$T/fleet.pub"
same "an index that was bent: layers shown early" 0 "$lazy_layers"
stop_serving
