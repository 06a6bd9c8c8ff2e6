#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A private image on a node: containerd has the credentials that the kubelet sends with a pull, and the snapshotter has
# them only from the proxy that the kubelet talks to, from the kubelet's plugins, or from a docker file. Without any of
# them the layers are unpacked as ever; what a proxied call answers, its errors and its streams are containerd's own.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2; need htpasswd
start_registry registry htpasswd
login='tester:se cret:1'
pause_image --user "$login"
for name in direct proxied again plugged filed; do
  $PY - "$LIB" "$T/images/$name" $name <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Tar().file("name", sys.argv[3].encode()), Tar().file("empty", b"")])
P
  push "$T/images/$name" "test/$name:1" --user "$login"
done
# A plugin as clouds have them; it writes down what it was asked.
mkdir -p "$T/plugins"
cat >"$T/plugins/fake-provider" <<SH
#!/bin/sh
cat >>$T/plugin.asked; echo " args=\$* env=\$FAKE" >>$T/plugin.asked
cat <<JSON
{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
 "cacheKeyType": "Registry", "cacheDuration": "1h",
 "auth": {"$REGISTRY": {"username": "nobody", "password": "x"}, "$REGISTRY/test": {"username": "tester", "password": "se cret:1"}}}
JSON
SH
chmod +x "$T/plugins/fake-provider"
cat >"$T/providers.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: fake-provider
  matchImages: ["127.0.*.1:${REGISTRY#*:}/test/plugged"]
  defaultCacheDuration: "12h"
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [get, "two words"]
  env: [{name: FAKE, value: yes}]
YAML
lazily() { cri pull "$@" >"$T/pulled" || fail "pull: $(cat "$T/pulled")"; counter snapshot_layers_unpacked; }
for version in 1 2; do
  ROOT=$T/root$version RUN=$T/run$version
  start_config="$T/config$version.toml"
  cat >"$start_config" <<TOML
[credentials]
kubelet_config = "$T/providers.yaml"
kubelet_bin_dir = "$T/plugins"
cri_proxy = true
containerd = "$T/containerd$version/sock"
TOML
  : >"$T/plugin.asked"
  echo '{}' >"$DOCKER_CONFIG/config.json"
  serve --config "$start_config"
  same "mode of the socket" 600 "$(stat -c %a "$RUN/cri.sock")"
  start_containerd "containerd$version" $version imagefs
  same "nobody told the snapshotter" 2 "$(lazily "$REGISTRY/test/direct:1" --creds "$login")"
  same "the cause" 2 "$(counter snapshot_layers_unpacked_credentials)"
  same "a plugin told it" 2 "$(lazily "$REGISTRY/test/plugged:1" --creds "$login")"
  same "what the plugin was asked" \
    '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest","image":"'"$REGISTRY/test/plugged"'"} args=get two words env=yes' \
    "$(cat "$T/plugin.asked")"
  auth=$(printf '%s' "$login" | base64 -w0)
  printf '{"auths": {"%s": {"auth": "%s"}}}' "$REGISTRY" "$auth" >"$DOCKER_CONFIG/config.json"
  same "a file told it" 2 "$(lazily "$REGISTRY/test/filed:1" --creds "$login")"
  echo '{}' >"$DOCKER_CONFIG/config.json"

  CRI_SOCKET=$RUN/cri.sock
  same "version through the proxy" "$(CRI_SOCKET='' cri version)" "$(cri version)"
  same "the proxy told it" 2 "$(lazily "$REGISTRY/test/proxied:1" --creds "$login")"
  same "and in the other form" 2 "$(lazily "$REGISTRY/test/again:1" --auth "$login")"
  same "remembered" 2 "$(counter credentials_remembered)"
  same "same list" "$(CRI_SOCKET='' cri images)" "$(cri images)"
  # A wrong password is forgotten at once, the right one is not.
  ! cri pull "$REGISTRY/test/proxied:1" --creds tester:wrong >"$T/refused" || fail "a wrong password pulls"
  ! CRI_SOCKET='' cri pull "$REGISTRY/test/proxied:1" --creds tester:wrong >"$T/refused.direct" || fail "a wrong password pulls"
  error() { field 'j["pulls"][0]["error"]' <"$1"; }
  same "the error is containerd's" "$(error "$T/refused.direct")" "$(error "$T/refused")"
  same "remembered after a refusal" 2 "$(counter credentials_remembered)"
  # The kubelet removes by id.
  cri rmi "$(cri image-status "$REGISTRY/test/proxied:1" | field 'j["image"]["id"]')" >/dev/null
  same "remembered after removal by id" 1 "$(counter credentials_remembered)"
  cri rmi "$REGISTRY/test/again:1" >/dev/null
  same "remembered after removal" 0 "$(counter credentials_remembered)"
  # A pod through the proxy; containerd 2 tells of it by a stream of answers, once that has begun.
  cri pull "$PAUSE" --creds "$login" >/dev/null
  : >"$T/events"
  [ $version = 1 ] || cri events --count 4 >"$T/events" 2>/dev/null &
  pods() {
    pod=$(pod "proxied$version")
    same "pods" "[\"$pod\"]" "$(cri pods | field '[p["id"] for p in j]')"
    remove_pod "$pod"
    [ $version = 1 ] || [ -s "$T/events" ]
  }
  wait_for 30 pods || fail "no events come through the proxy"
  [ $version = 1 ] || same "events" 4 "$(field 'len([e for e in j if e["container_id"]])' <"$T/events")"
  cri rmi "$PAUSE" >/dev/null
  # containerd goes and comes back.
  kill_containerd
  ! cri version >/dev/null 2>"$T/err" || fail "an answer without containerd"
  same "code without containerd" UNAVAILABLE "$(grep '^{' "$T/err" | field 'j["code"]')"
  (CRI_SOCKET='' && resume_containerd)
  wait_for 20 'cri version >/dev/null 2>&1' || fail "the proxy does not find containerd again"
  CRI_SOCKET=''
  stop_containerd
  for secret in 'se cret:1' "$auth"; do
    ! grep -rqF "$secret" "$ROOT" "$RUN" "$T/daemon.out" 2>/dev/null || fail "a secret is in $(grep -rlF "$secret" "$ROOT" "$RUN" "$T/daemon.out")"
  done
  stop_serving
done
