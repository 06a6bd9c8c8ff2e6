#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# containerd's content store with `containerd.keep_blobs`, over either containerd: a lazily pulled image can be exported
# and pushed once it is complete, a blob that got lost comes again, containerd's collector takes the blobs with the image,
# and nothing of them stays in the store; also if containerd is away meanwhile. Without the setting an export fails.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
layered_image app
layered_image plain         # the same layers under a name that no index is published for
ref=$SHAPED/test/app:1
publish app
layers=$($PY -c 'import sys; sys.path.insert(0, sys.argv[1]); from lazy import *
print(*sorted(layers_of(sys.argv[2])))' "$LIB" "$T/images/app")
k8s() { own_ctr -n k8s.io "$@"; }
has_all() {  # a pipe to grep -q would end ctr by a signal
  local layer there
  there=$(k8s content ls -q)
  for layer in $layers; do grep -qxF "$layer" <<<"$there" || return 1; done
}
kept() { find "$ROOT/blobs" -name 'kept-*' -o -name 'keeping-*'; }
gone() { wait_for 30 '[ "$(counter snapshots)" = 0 ] && ! grep -qxF "$(cut -d" " -f2 <<<"$layers")" <<<"$(k8s content ls -q)"' || fail "stays: $(k8s content ls)"; }

for version in 1 2; do
  store "node$version"
  configure '[containerd]' 'lazy = "repository"' '[fill]' 'quiet = "1s"'
  serve --config "$T/config.toml"
  start_containerd "containerd$version" $version imagefs
  cri pull "$ref" >/dev/null
  wait_for 60 '! grep -q "\"state\": *\"filling\"" <<<"$(ifs status --json)"' || fail "the layers do not become complete"
  ! k8s image export "$T/export.tar" "$ref" >"$T/export.out" 2>&1 || fail "an export works without the blobs"
  grep -q 'not found' "$T/export.out" || fail "export: $(cat "$T/export.out")"
  same "no blob without the setting" "" "$(kept)"
  cri rmi "$ref" >/dev/null; gone
  stop_serving

  configure '[containerd]' 'lazy = "repository"' 'keep_blobs = true' '[fill]' 'quiet = "4s"' \
    '[credentials]' "containerd = \"$CONTAINERD/sock\""
  serve --config "$T/config.toml"
  forget_requests
  cri pull "$ref" >/dev/null
  same "lazy" 5 "$(counter snapshot_layers_lazy)"
  same "states" filling "$(ifs status --json | field '" ".join(sorted({l["state"] for l in j["layers"] if l["data_bytes"] > 1 << 20}))')"
  if [ $version = 1 ]; then  # containerd is away when they become complete
    stop_containerd
    wait_for 60 '! grep -q "\"state\": *\"filling\"" <<<"$(ifs status --json)"' || fail "the layers do not become complete"
    wait_for 30 'daemon_says content.not_written' || fail "it is not said that containerd is away"
    [ -n "$(kept)" ] || fail "nothing is kept"
    resume_containerd
  fi
  wait_for 90 has_all || fail "blobs are missing: $(k8s content ls) $(ifs status --json)"
  wait_for 10 '[ "$(counter content_blobs_written)" = 5 ]' || fail "written: $(counter content_blobs_written)"
  same "failed" 0 "$(counter content_blobs_failed)"
  lazy once "$SHAPER/requests" "$T/images/app" || fail "bytes were fetched twice"
  wait_for 10 '[ -z "$(kept)" ]' || fail "files stay: $(kept)"
  same "leases" "" "$(k8s leases ls -q)"
  grep -F "$(cut -d" " -f2 <<<"$layers")" <<<"$(k8s content ls)" | grep -F >/dev/null "containerd.io/distribution.source.$SHAPED=test/app" ||
    fail "the source is not named: $(k8s content ls)"
  # A collection takes none of it.
  k8s images tag "$ref" none.invalid/other:1 >/dev/null
  k8s images rm --sync none.invalid/other:1 >/dev/null
  has_all || fail "the collector took blobs of an image"

  k8s image export "$T/export.tar" "$ref" || fail "export"
  $PY - "$T/export.tar" $layers <<'P' || fail "the exported image is wrong"
import hashlib, sys, tarfile
want = set(sys.argv[2:])
with tarfile.open(sys.argv[1]) as tar:
    for member in tar:
        if not member.isfile() or not member.name.startswith("blobs/sha256/"): continue
        digest = hashlib.sha256(tar.extractfile(member).read()).hexdigest()
        assert member.name == "blobs/sha256/" + digest, member.name
        want.discard("sha256:" + digest)
sys.exit(f"not exported: {want}" if want else 0)
P
  k8s image push --plain-http "$REGISTRY/copy/app$version:1" "$ref" >"$T/push.out" 2>&1 || { cat "$T/push.out"; fail "push"; }
  (store check && ifs pull -q "$REGISTRY/copy/app$version:1" >/dev/null && ifs stop) || fail "the pushed image cannot be pulled"

  # One is lost while the layer is local: the next daemon fetches it. Killed in between, it leaves nothing behind.
  k8s content rm "$(cut -d" " -f2 <<<"$layers")" >/dev/null
  stop_serving KILL
  serve --config "$T/config.toml"
  wait_for 90 has_all || fail "the lost blob does not come again"
  wait_for 10 '[ -z "$(kept)" ]' || fail "files stay: $(kept)"

  # An image that came by passes, with the credentials of nobody and in another namespace.
  own_ctr -n other namespaces create other >/dev/null
  cri rmi "$ref" >/dev/null; gone
  ifs rpull -q --address "$CONTAINERD/sock" --namespace other "$REGISTRY/test/plain:1" >/dev/null
  wait_for 90 '[ "$(own_ctr -n other content ls -q | grep -cxF "$(tr " " "\n" <<<"$layers")")" = 5 ]' ||
    fail "blobs of passes are missing: $(own_ctr -n other content ls)"
  own_ctr -n other image export "$T/export.tar" "$REGISTRY/test/plain:1" || fail "export of an image that rpull registered"
  own_ctr -n other images rm --sync "$REGISTRY/test/plain:1" >/dev/null
  wait_for 30 '[ -z "$(own_ctr -n other content ls -q)" ]' || fail "stays: $(own_ctr -n other content ls)"
  wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay"
  stop_containerd; stop_serving
done
