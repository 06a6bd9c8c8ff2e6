#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Image verifiers and containerd: an image that they deny is not pulled, also not by unpacking it; the index is asked about
# although containerd names a platform's manifest; a slow program is no silent registry; with `require` nothing is unpacked.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/containerd.sh"
. "$LIB/snapshots.sh"
. "$LIB/lazy.sh"
need_containerd 1; need_containerd 2
start_registry registry
plain_host "$REGISTRY"
pause_image
layered_image good
push "$T/images/good" test/bad:1
good=$REGISTRY/test/good:1 bad=$REGISTRY/test/bad:1 multi=$REGISTRY/test/multi:1
# Of several platforms, each with a layer of its own: containerd asks nobody about layers that it has.
several() {
  $PY - "$LIB" "$T/images/$1" "$1" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
layout = sys.argv[2]
simple_image(layout, [host_tar(["sh", "cat", "sleep"]).file("etc/motd", sys.argv[3].encode())],
             config_extra={"config": {"Env": ["PATH=/bin:/usr/bin"]}})
of_platforms(layout)
P
  push "$T/images/$1" "test/$1:1"
}
several multi; several pinned; several third
top=$(manifest_of multi)
mkdir -m 755 "$T/verifiers"
# Slower than the patience with a silent registry.
printf '#!/bin/sh\necho "$@" >>%s\nsleep 4\ncase $2 in */test/bad[:@]*) echo "nobody has signed it"; exit 1 ;; esac\n' "$T/calls" >"$T/verifiers/names"
chmod 755 "$T/verifiers/names"
verify() { configure '[fill]' 'background = false' '[verify]' "bin_dir = \"$T/verifiers\"" "$@"; }
calls() { wc -l <"$T/calls"; }
for version in 1 2; do
  ROOT=$T/root$version RUN=$T/run$version
  : >"$T/calls"
  verify
  serve --config "$T/config.toml"
  start_containerd "containerd$version" $version imagefs
  ! cri pull "$bad" >"$T/pulled" 2>&1 || fail "a denied image is pulled"
  grep -q "denied by verification: .*nobody has signed it" "$T/pulled" || fail "the message: $(cat "$T/pulled")"
  same "images" "" "$(own_ctr -n k8s.io images ls -q | grep test/bad || true)"
  same "layers" "0 0 0" "$(counter snapshot_layers_lazy) $(counter snapshot_layers_unpacked) $(counter snapshots)"

  : >"$T/calls"
  cri pull "$good" >"$T/pulled"
  same "lazily pulled" "5 0" "$(counter snapshot_layers_lazy) $(counter snapshot_layers_unpacked)"
  same "runs for five layers" "1 -name $good -digest $(manifest_of good)" "$(calls) $(cut -d" " -f1-4 "$T/calls")"
  # The index, by tag and by digest; the manifest is the same.
  : >"$T/calls"
  cri pull "$multi" >"$T/pulled"
  same "the index" "1 -name $multi -digest $top" "$(calls) $(cut -d" " -f1-4 "$T/calls")"
  : >"$T/calls"
  cri pull "$REGISTRY/test/pinned@$(manifest_of pinned)" >"$T/pulled"
  same "the digest of the index" "$(manifest_of pinned)" "$(cut -d" " -f4 "$T/calls" | sort -u)"
  same "unpacked" 0 "$(counter snapshot_layers_unpacked)"
  pod=$(pod verified)
  same "container" multi "$(cri exec-sync "$(container "$pod" verified main "$multi" sleep 1000)" cat /etc/motd | field 'j["stdout"].rstrip()')"
  # rpull: for its own look and for the layers.
  # It says that it waits, so that there is more than one line.
  ! ifs rpull -q --address "$CONTAINERD/sock" "$bad" >"$T/pulled" 2>&1 || fail "rpull gives containerd a denied image"
  grep -q 'imagefs: .*denied by verification' "$T/pulled" || fail "the message: $(cat "$T/pulled")"
  : >"$T/calls"
  ifs rpull -q --address "$CONTAINERD/sock" "$REGISTRY/test/third:1" >/dev/null
  same "runs for rpull" "1 $(manifest_of third)" "$(calls) $(cut -d" " -f4 "$T/calls")"

  # What has run goes on with the next daemon, which has verified nothing yet.
  stop_serving
  printf '#!/bin/sh\necho no; exit 1\n' >"$T/verifiers/nothing"
  chmod 755 "$T/verifiers/nothing"
  serve --config "$T/config.toml"
  same "container of before" multi "$(cri exec-sync "$(container "$pod" verified again "$multi" sleep 1000)" cat /etc/motd | field 'j["stdout"].rstrip()')"
  remove_pod "$pod"
  rm "$T/verifiers/nothing"
  stop_serving

  # Without `require`, what this daemon cannot present is containerd's to unpack and to verify; with it, nobody's.
  verify 'require = true'
  serve --config "$T/config.toml"
  plain() { own_ctr -n plain image pull --hosts-dir "$T/hosts" --snapshotter imagefs "$@" >"$T/pull.out" 2>&1; }
  if [ $version = 1 ]; then
    ! plain "$good" || fail "an image of which nothing is known is unpacked"
    grep -q 'denied by verification: .*require = false' "$T/pull.out" || fail "the message: $(cat "$T/pull.out")"
    same "snapshots of it" "" "$(snapshots plain)"
  fi
  stop_serving
  stop_containerd
done
