#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A model in an uncompressed layer, as a container of either containerd sees it: the pull reads the headers of its tar, the
# container the parts that it reads, and nothing is lazy where the configuration does not trust unverified bytes.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
$PY - "$LIB" "$T/images/model" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "sleep", "dd", "sha256sum"])
model = Tar().dir("model")
for i in range(8):
    model.file(f"model/part-{i}", b"".join(b"part %d at %4d MiB\n" % (i, m) + bytes((1 << 20) - 19) for m in range(12)))
simple_image(sys.argv[2], [Layer(tools), Layer(model, media=LAYER)], config_extra={"config": {"Env": ["PATH=/bin:/usr/bin"]}})
PY
push "$T/images/model" test/model:1
ref=$SHAPED/test/model:1
blob=$(layer_of model 1)
of_model() { $PY -c 'import json, sys
print(sum(r["sent"] for r in map(json.loads, open(sys.argv[1])) if sys.argv[2] in r["path"]))' "$SHAPER/requests" "$blob"; }
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }

# node NAME VERSION: pulls the image and starts a container of it; $pod, $id, and $pulled: bytes of the model for the pull.
node() {
  store "$1"
  serve --config "$T/config.toml"
  start_containerd "$1" "$2" imagefs
  forget_requests
  cri pull "$ref" >/dev/null
  pulled=$(of_model)
  pod=$(pod "$1")
  id=$(container "$pod" "$1" main "$ref" sleep 1000)
  same "$1: a line of a part" "part 5 at    7 MiB" "$(exec_in "$id" 'dd if=/model/part-5 bs=18 count=1 iflag=skip_bytes skip=7340032 2>/dev/null')"
}
end_node() {
  cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
  remove_pod "$pod"
  stop_containerd; stop_serving
}

configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"'
for version in 1 2; do
  node "lazy$version" $version
  [ "$pulled" -lt 100000 ] || fail "containerd $version: the pull fetched $pulled bytes of the model"
  [ "$(of_model)" -lt $((24 << 20)) ] || fail "containerd $version: $(of_model) bytes of the model for one line"
  same "containerd $version: the file" "$($PY -c 'import hashlib
h = hashlib.sha256()
for m in range(12): h.update(b"part 3 at %4d MiB\n" % m + bytes((1 << 20) - 19))
print(h.hexdigest())')" "$(exec_in "$id" 'sha256sum /model/part-3' | cut -d' ' -f1)"
  end_node
done

configure '[fill]' 'background = false' 'unverified = "deny"' '[containerd]' 'lazy = "repository"'
node denied 2
[ "$pulled" -gt $((90 << 20)) ] || fail "denied: only $pulled bytes of the model were fetched by the pull"
end_node
