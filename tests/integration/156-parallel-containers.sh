#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Both containerds pull a large layer as a whole, since nobody they trust vouches for its index: it is decompressed by that
# index's spans, fetched once, and right.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
sum=$($PY - "$LIB" "$T/images/big" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
import random
tools = host_tar(["sh", "sleep", "sha256sum"])
weights = random.Random(156).randbytes(70 << 20)
tar = Tar().dir("model").file("model/weights", weights).bytes()
simple_image(sys.argv[2], [Layer(tools), Layer(tar, LAYER_GZIP, gzip.compress(tar, 1, mtime=0))],
             config_extra={"config": {"Env": ["PATH=/bin:/usr/bin"]}})
print(hashlib.sha256(weights).hexdigest())
PY
)
push "$T/images/big" test/big:1
publish big
ref=$SHAPED/test/big:1
configure '[fill]' 'background = false' '[index]' 'least_processors = 1'
for version in 1 2; do
  name=node$version
  store "$name"
  serve --config "$T/config.toml"
  start_containerd "$name" $version imagefs
  forget_requests
  cri pull "$ref" >/dev/null
  pod=$(pod "$name")
  id=$(container "$pod" "$name" main "$ref" sleep 1000)
  same "$name: the file" "$sum" "$(cri exec-sync "$id" sh -c 'sha256sum /model/weights' | field 'j["stdout"].split()[0]')"
  same "$name: by its table" 1 "$(counter layers_parallel)"
  same "$name: lazy" 0 "$(counter layers_lazy)"
  lazy once "$SHAPER/requests" "$T/images/big" || fail "$name: bytes of a layer were sent twice"
  cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
  remove_pod "$pod"
  stop_containerd; stop_serving
done
