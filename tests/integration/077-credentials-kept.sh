#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A private image that is being filled with the credentials that the kubelet passed outlives the daemon: the next one has
# them, after a crash and after an orderly end, and no disk does.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_containerd 2; need htpasswd
start_registry registry htpasswd
login='tester:se cret:1'
pause_image --user "$login"
layered_image app --user "$login"
printf '{"auths": {"%s": {"auth": "%s"}}}' "$REGISTRY" "$(printf '%s' "$login" | base64 -w0)" >"$DOCKER_CONFIG/config.json"
publish app
echo '{}' >"$DOCKER_CONFIG/config.json"
configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"' '[credentials]' 'cri_proxy = true' \
  "containerd = \"$T/containerd/sock\""
serve --config "$T/config.toml"
start_containerd containerd 2 imagefs
CRI_SOCKET=$RUN/cri.sock cri pull "$REGISTRY/test/app:1" --creds "$login" >"$T/pulled"
CRI_SOCKET=$RUN/cri.sock cri pull "$PAUSE" --creds "$login" >"$T/pulled"
same "unpacked layers" 0 "$(counter snapshot_layers_unpacked)"
pod=$(pod kept)
id=$(container "$pod" kept main "$REGISTRY/test/app:1" sleep 1000)
read_one() { cri exec-sync "$id" sh -c "wc -c </data/$1" | field 'j["stdout"].strip()'; }
same "a file" 4037 "$(read_one 1)"
for signal in KILL TERM; do
  stop_serving "$signal"
  serve --config "$T/config.toml"
  same "after $signal: remembered" True "$(ifs status --json | field 'str(j["counters"]["credentials_remembered"] > 0)')"
  k=$([ "$signal" = KILL ] && echo 150 || echo 290)
  same "after $signal: a file that was not read before" $((4000 + 37 * k)) "$(read_one "$k")"
  # A new container of it, too.
  other=$(container "$pod" kept "other$signal" "$REGISTRY/test/app:1" sleep 1000)
  same "after $signal: another container" 4000 "$(cri exec-sync "$other" sh -c 'wc -c </data/0' | field 'j["stdout"].strip()')"
  cri stop "$other" >/dev/null; cri rm "$other" >/dev/null
done
! grep -rqF -D skip 'se cret:1' "$ROOT" "$RUN" 2>/dev/null || fail "the password is in a file"
cri stop "$id" >/dev/null; cri rm "$id" >/dev/null; remove_pod "$pod"
stop_containerd
