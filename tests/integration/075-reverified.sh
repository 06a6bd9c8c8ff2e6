#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Credentials are verified again where an image is present (KEP-2535): the kubelet pulls it with those of the next pod, and
# the registry is asked. Wrong ones fail and spoil nothing; right ones succeed. Directly and through the proxy.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2; need htpasswd
start_registry registry htpasswd
login='tester:se cret:1'
pause_image --user "$login"
layered_image app --user "$login"
ref=$REGISTRY/test/app:1
asked() { grep -c 'test/app/manifests' "$REGISTRY_LOG"; }
refused() {  # refused WHAT [OPTION...]
  local before status=0
  before=$(asked)
  cri pull "$ref" "${@:2}" >"$T/pulled" || status=$?
  same "$version: $1: status" 1 $status
  field 'j["pulls"][0]["error"]["message"]' <"$T/pulled" | grep -qE '401|403|nauthorized|uthorization|no basic auth' ||
    { cat "$T/pulled"; fail "$version: $1: it fails for another reason"; }
  [ "$(asked)" -gt "$before" ] || fail "$version: $1: the registry was not asked"
}
for version in 1 2; do
  ROOT=$T/root$version RUN=$T/run$version
  printf '[credentials]\ncri_proxy = true\ncontainerd = "%s"\n' "$T/containerd$version/sock" >"$T/config.toml"
  serve --config "$T/config.toml"
  start_containerd "containerd$version" $version imagefs
  for CRI_SOCKET in "$CONTAINERD/sock" "$RUN/cri.sock"; do
    cri pull "$ref" --creds "$login" >"$T/pulled" || fail "$version: $(cat "$T/pulled")"
    image=$(cri image-status "$ref" | field 'j["image"]["id"]')
    refused "a wrong password" --creds tester:wrong
    refused "another user" --creds 'nobody:x'
    refused "no credentials"
    same "$version: the image" "$image" "$(cri image-status "$ref" | field 'j["image"]["id"]')"
    cri pull "$ref" --creds "$login" >"$T/pulled" || fail "$version: the right ones afterwards: $(cat "$T/pulled")"
    # A pod of the image starts, without a pull (IfNotPresent).
    cri pull "$PAUSE" --creds "$login" >/dev/null
    pod=$(pod "once$version")
    id=$(container "$pod" "once$version" main "$ref" sleep 1000)
    same "$version: the container" three "$(cri exec-sync "$id" cat /etc/motd | field 'j["stdout"].rstrip()')"
    cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
    remove_pod "$pod"
  done
  unset CRI_SOCKET
  stop_containerd; stop_serving
done
