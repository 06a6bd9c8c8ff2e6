#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# podman and an image whose layers are stored uncompressed and have no index: `imagefs add` and a pull by the layer store read the
# headers of the tars, a container reads the parts that it needs; with `deny`, and without trust, everything is fetched first.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/podman.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_podman
start_registry registry
start_shaper line
$PY - "$LIB" "$T/images/model" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "sleep", "dd", "sha256sum", "ls"])
model = Tar().dir("model")
for i in range(8):
    model.file(f"model/part-{i}", b"".join(b"part %d at %4d MiB\n" % (i, m) + bytes((1 << 20) - 19) for m in range(12)))
simple_image(sys.argv[2], [Layer(tools, media=LAYER), Layer(model, media=LAYER)],
             config_extra={"config": {"Env": ["PATH=/bin:/usr/bin"]}})
PY
push "$T/images/model" test/model:1
ref=$SHAPED/test/model:1
blob=$(layer_of model 1)
whole=$((8 * 12 << 20))
of_model() { $PY -c 'import json, sys
print(sum(r["sent"] for r in map(json.loads, open(sys.argv[1])) if sys.argv[2] in r["path"]))' "$SHAPER/requests" "$blob"; }
part_sum=$($PY -c 'import hashlib
h = hashlib.sha256()
for m in range(12): h.update(b"part 3 at %4d MiB\n" % m + bytes((1 << 20) - 19))
print(h.hexdigest())')
line() { says "$ref" sh -c 'dd if=/model/part-5 bs=18 count=1 iflag=skip_bytes skip=7340032 2>/dev/null'; }
setting() { configure '[fill]' 'background = false' "unverified = \"$1\"" '[podman]' 'layers = true' "lazy = \"$2\"" '[mount]' 'loop_devices = false'; }
# containers NAME: what containers of it read, and what that fetches.
containers() {
  local before
  before=$(of_model)
  [ "$before" -lt 100000 ] || fail "$1: $before bytes of the model before a container"
  same "$1: a line of a part" "part 5 at    7 MiB" "$(line)"
  [ "$(of_model)" -lt $((24 << 20)) ] || fail "$1: $(of_model) bytes of the model for one line"
  same "$1: a part" "$part_sum" "$(says "$ref" sh -c 'sha256sum </model/part-3' | cut -d' ' -f1)"
  [ "$(of_model)" -lt $((whole * 3 / 4)) ] || fail "$1: $(of_model) bytes of the model for a part of it"
}

# Added: an image of the daemon's store, in every presentation.
setting allow repository
for mode in $(modes); do
  store "$mode"
  use_podman "$mode"
  forget_requests
  ifs add -q --json "$ref" >"$T/added.json"
  same "$mode: state" filling "$(field 'j["images"][0]["state"]' <"$T/added.json")"
  [ "$(counter stored_layers_scanned)" -gt 0 ] || fail "$mode: no headers were read"
  containers "$mode"
  # All of it comes when it is asked for, and is then proven.
  ifs pull -q "$ref" >/dev/null
  same "$mode: whole" complete "$(ifs add --list --json | field 'j["images"][0]["state"]')"
  same "$mode: a line of it" "part 5 at    7 MiB" "$(line)"
  ifs drop "$ref" >/dev/null
  ifs stop --unmount
done

# Pulled by podman, which finds the layers in the daemon's layer store.
store layers
use_layers layers
ifs add --list >/dev/null
wait_for 20 'mountpoint -q "$RUN/als"' || fail "the layer store is not served"
forget_requests
own_podman pull -q --tls-verify=false "$ref" >/dev/null 2>"$T/err" || { cat "$T/err"; fail "podman pull"; }
same "layers that podman found" 2 "$(counter podman_layers_found)"
containers layers
own_podman rmi -f "$ref" >/dev/null
ifs stop --unmount

# Not lazy: fetched as a whole, and right.
for how in deny trust; do
  if [ $how = deny ]; then setting deny repository; else setting allow trusted; fi
  store "$how"
  use_podman "$how"
  forget_requests
  ifs add -q "$ref" >/dev/null
  [ "$(of_model)" -ge "$whole" ] || fail "$how: only $(of_model) bytes of the model were fetched"
  same "$how: headers read alone" 0 "$(counter stored_layers_scanned)"
  same "$how: a line" "part 5 at    7 MiB" "$(line)"
  ifs drop "$ref" >/dev/null
  ifs stop --unmount
done
