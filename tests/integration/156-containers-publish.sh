#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Nodes with containerd publish without being asked: the first one the index of what it pulled, the first lazy one the profile and
# the hot pack of its container; the container of the next node starts by the pack, with few requests. The credentials of
# a pod's pull are not used for that, those of the node are.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_containerd 1; need_containerd 2; need htpasswd
start_registry registry htpasswd
login='tester:se cret:1'
start_shaper line
plain_host "$SHAPED"
pause_image --user "$login"
layered_image app --user "$login"
ref=$SHAPED/test/app:1
subject=$(manifest_of app)
node_login() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$SHAPED" "$(printf '%s' "$login" | base64 -w0)" >"$DOCKER_CONFIG/config.json"; }
node_config() {  # node_config LINE...
  configure '[fill]' "background = ${BACKGROUND:-true}" "hot_pack = ${HOT_PACK:-true}" 'quiet = "200ms"' '[containerd]' 'lazy = "repository"' \
    '[credentials]' 'cri_proxy = true' "containerd = \"$T/$name/sock\"" '[index]' 'publish_spread = "off"' "$@"
}
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
# node NAME VERSION LINE...: a node whose containerd runs the image; the pod's credentials come with its pull, by the proxy.
node() {
  name=$1
  store "$name"
  node_config "${@:3}"
  serve --config "$T/config.toml"
  start_containerd "$name" "$2" imagefs
  CRI_SOCKET=$RUN/cri.sock
  cri pull "$PAUSE" --creds "$login" >/dev/null
  forget_requests
  cri pull "$ref" --creds "$login" >/dev/null
  same "$name: unpacked by containerd" 0 "$(counter snapshot_layers_unpacked)"
  pod=$(pod "$name")
  id=$(container "$pod" "$name" main "$ref" sleep 1000)
  same "$name: what it reads" three "$(exec_in "$id" 'cat /etc/motd; cat /data/10 /data/200 /data/3 >/dev/null')"
}
end_node() {
  cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
  remove_pod "$pod"
  CRI_SOCKET=''
  stop_containerd; stop_serving
}
published() { wait_for 60 "daemon_says 'index.published .*$1'" || fail "not published: $(tail -20 "$T/daemon.out")"; }
forget_log() { : >"$T/daemon.out"; }

# Without credentials of its own the node publishes nothing.
node pods 2 'publish = true'
wait_for 60 "daemon_says 'index.publish_failed .*again=no'" || fail "what was done with a pod's credentials: $(tail -20 "$T/daemon.out")"
same "published" 0 "$(counter publications_pushed)"
end_node
forget_log

node_login
node first 1 'publish = true'
published 'profile=no'
# What was published for it is not one of the images of the command.
same "listed images" 0 "$(ifs images --json | field 'len(j)')"
end_node
forget_log
# The whole start is recorded, since nothing else brings its bytes; then all of them are fetched.
BACKGROUND=false
node second 2 'publish = true'
[ "$(counter layers_lazy)" -gt 0 ] || fail "not lazy: $(ifs status --json)"
wait_for 60 "daemon_says 'profile.recorded'" || fail "no profile: $(tail -20 "$T/daemon.out")"
same "published before all bytes are local" 0 "$(counter publications_pushed)"
ifs pull -q "$ref" >/dev/null
published 'profile=yes hot_pack_bytes=[1-9]'
end_node

# Containers that start by the pack, over either containerd: compared with one that is not given it.
forget_log
HOT_PACK=false
node without 2 'publish = false'
same "pack that was turned off" 0 "$(counter hot_pack_bytes)"
without=$(counter fill_requests)
end_node
HOT_PACK=true
for version in 1 2; do
  # A start on a busy machine may be ahead of the pack, and then asks for parts.
  for try in 1 2 3 4 5 6; do
    node "packed$version-$try" $version 'publish = false'
    packed=$(counter hot_pack_bytes) requests=$(counter fill_requests)
    [ "$packed" -gt 0 ] || fail "containerd $version: no pack: $(ifs status --json)"
    same "containerd $version: requests for the pack" 1 "$(counter hot_packs)"
    end_node
    [ $((requests * 4)) -gt "$without" ] || break
    [ $try -lt 6 ] || fail "containerd $version: $requests requests for parts with the pack, $without without"
  done
  echo "containerd $version: $packed bytes of pages, $requests requests for parts instead of $without"
done
