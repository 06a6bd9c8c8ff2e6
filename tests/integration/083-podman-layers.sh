#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Podman pulls, and finds each layer in the daemon's layer store: it fetches none. The trees are those that it unpacks by
# itself; what it uses is there again after a restart, without a registry; what it removes goes.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/podman.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_podman
start_registry registry
start_shaper line
tools_image app one
tools_image next two
push "$T/images/app" test/app:1
push "$T/images/next" test/next:1
images="whiteouts replace owners trusted-xattrs special same-diff lib-over-link zstd uncompressed"
image $images
for name in $images; do push "$T/images/$name" "suite/$name:1"; done
app=$REGISTRY/test/app:1 next=$REGISTRY/test/next:1
configure '[podman]' 'layers = true' 'lazy = "repository"' '[fill]' 'background = false' '[mount]' 'loop_devices = false'
pull() { own_podman pull -q --tls-verify=false "$@"; }
als() { echo "$RUN/als/$(printf %s "$1" | base64 -w0)"; }
nothing_is_held() {
  wait_for 20 '[ -z "$(ls "$ROOT/layers" "$ROOT/chains" | grep -v :)" ]' || fail "files stay: $(ls "$ROOT/layers" "$ROOT/chains")"
  same "mounts" "$RUN/als" "$(mounts_below "$RUN")"
}
# What podman unpacks by itself. (Of a file with hard links an overlay counts names that other layers hide, theirs as ours.)
declare -A theirs
use_podman alone
sed -i '/additionalimagestores/d' "$T/podman/storage.conf"
for name in $images; do
  pull "$REGISTRY/suite/$name:1" >/dev/null
  theirs[$name]=$(own_podman image mount "$REGISTRY/suite/$name:1")
done
mkdir "$T/tmpfs" && mount -t tmpfs tmpfs "$T/tmpfs"

for presentation in $(modes); do
  store "$presentation"
  [ "$presentation" = kernel ] || ROOT=$T/tmpfs/root
  ifs images >/dev/null
  use_layers "$presentation"
  mark
  pull "$app" >/dev/null 2>"$T/pull.err"
  grep -i 'warn' "$T/pull.err" && fail "podman warns"
  same "layers that podman fetched" 0 "$(fetched containers)"
  same "layers that the daemon fetched" 4 "$(fetched imagefs)"
  same "found" 4 "$(counter podman_layers_found)"
  same "what it runs" "one 100" "$(says "$app" sh -c 'cat /word; ls /data | wc -l; ls /gone 2>/dev/null' | sed 's/ status 2//')"
  run "$app" sh -c 'echo x >/word; rm -r /data; mkdir /data; ls /data' >"$T/out" || fail "a container that writes"
  same "an emptied directory" "" "$(cat "$T/out")"

  # Built on top: podman's own layers over ours.
  printf 'FROM %s\nRUN echo built >>/word\n' "$app" >"$T/Containerfile"
  own_podman build -q --isolation chroot --pull-never -t localhost/built:1 -f "$T/Containerfile" "$T" >/dev/null 2>"$T/build.log" || { cat "$T/build.log"; fail "build"; }
  same "what was built" "one built" "$(says localhost/built:1 cat /word)"
  own_podman rmi localhost/built:1 >/dev/null

  # Everything that a layer may have. A layer that no index can show (ours refuses what the runtimes take) would be fetched.
  for name in $images; do
    pull "$REGISTRY/suite/$name:1" >/dev/null
    id=$(own_podman --runtime runc create --pull never "${CONTAINER[@]}" "$REGISTRY/suite/$name:1" /none)
    $PY "$LIB/tree.py" compare "${theirs[$name]}" "$(own_podman mount "$id")" "$T/images/$name.json" --loose-root --marked || fail "$presentation: $name"
    own_podman umount "$id" >/dev/null
    own_podman --runtime runc rm "$id" >/dev/null
  done
  # But for the one that an image has twice: an overlay takes no directory twice.
  same "layers that podman fetched" 1 "$(fetched containers)"
  for name in $images; do own_podman rmi "$REGISTRY/suite/$name:1" >/dev/null; done

  # Another name of the same image is another user of its layers.
  pull "$app" >/dev/null
  push "$T/images/app" test/copy:1
  pull "$REGISTRY/test/copy:1" >/dev/null
  pull "$next" >/dev/null
  own_podman rmi "$next" >/dev/null
  own_podman rmi "$REGISTRY/test/copy:1" >/dev/null
  same "after that" one "$(says "$app")"

  # The next daemon shows what podman uses, without a registry.
  registry_dies
  for signal in TERM KILL; do
    kill -$signal "$(daemons)"
    wait_for 20 '[ -z "$(daemons)" ]' || fail "the daemon does not end"
    ifs images >/dev/null
    same "after SIG$signal" one "$(says "$app")"
  done
  # Of what it does not know there is nothing, and podman is told so at once.
  ! stat "$(als "$next")/$(layers_of next | cut -d' ' -f1)/diff" >/dev/null 2>&1 || fail "a layer without a registry"
  registry_returns

  # Not references, not layers, not files.
  for path in "$RUN/als/x" "$(als oci:/etc:1)" "$(als "$app")/sha256:1" "$(als "$app")/$(manifest_digest next)" \
    "$(als "$app")/$(layers_of app | cut -d' ' -f1)/use" "$(als "$app")/$(layers_of app | cut -d' ' -f1)/none"; do
    ! stat "$path" >/dev/null 2>&1 || fail "there is $path"
  done
  first=$(als "$app")/$(layers_of app | cut -d' ' -f1)
  same "info" "$(layers_of app | cut -d' ' -f1)" "$(field 'j["compressed-diff-digest"]' <"$first/info")"
  same "blob" "$(stat -c %s "$T/images/app/blobs/sha256/$(layers_of app | cut -d' ' -f1 | cut -d: -f2)")" "$(stat -c %s "$first/blob")"
  for refused in "touch $first/other" "mkdir $RUN/als/new" "rm $first/info" "rmdir $(als "$app")" "ln -s x $RUN/als/y"; do
    ! $refused 2>/dev/null || fail "it can be changed: $refused"
  done
  same "an empty list" "" "$(ls "$RUN/als")"

  # What podman removes goes, and what only that needed.
  own_podman --runtime runc rm -fa >/dev/null
  own_podman rmi "$app" >/dev/null
  nothing_is_held
  # A pull that is killed leaves nothing that another one does not clean up.
  ifs stop
  same "mounts" "" "$(mounts_below "$RUN")"
done

# Bytes that are not here: an index is published, and the pull needs none.
store lazily
use_layers lazily
publish app
ifs images >/dev/null
mark
pull "$app" >/dev/null
same "layers that anybody fetched" 0 "$(fetched '(imagefs|containers)' | head -1)"
same "states" filling "$(ifs status --json | field '" ".join(sorted({l["state"] for l in j["layers"] if l["data_bytes"] > 1 << 20}))')"
same "what it runs" one "$(says "$app")"
[ "$(fetched containers)" = 0 ] || fail "podman fetched layers"
less=$(ifs status --json | field 'j["counters"]["fill_bytes_fetched"]')
[ "$less" -gt 0 ] && [ "$less" -lt "$(cat "$T/images/app"/blobs/sha256/* | wc -c)" ] || fail "fetched: $less"
all=$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(100))): h.update(random.Random(f"one {k}").randbytes(4000 + 137 * int(k)))
print(h.hexdigest())')
sum() { "$@" sh -c 'cat /data/* | sha256sum' | cut -d' ' -f1; }
# A container goes on with the next daemon, wherever its bytes come from.
run -d --name lasting "$app" sleep 1000 >/dev/null
for signal in TERM KILL; do
  kill -$signal "$(daemons)"
  wait_for 20 '[ -z "$(daemons)" ]' || fail "the daemon does not end"
  ifs images >/dev/null
  same "a container after SIG$signal" one "$(own_podman --runtime runc exec lasting cat /word)"
done
same "the bytes of that container" "$all" "$(sum own_podman --runtime runc exec lasting)"
same "after a kill" "$all" "$(sum says "$app")"
own_podman --runtime runc rm -f -t 0 lasting >/dev/null

# Who waits for a layer can be killed, and only those wait.
held=$(als "$SHAPED/test/next:1")/$(layers_of next | cut -d' ' -f1)
shape rules '[{"path": "manifests/", "delay": 60}]' >/dev/null
timeout -s KILL 1 stat "$held/diff" >/dev/null 2>&1 & waiter=$!
wait_for 10 '[ "$(flights "f[\"waiting\"]")" -gt 0 ]' || fail "nobody waits"
same "somebody else meanwhile" one "$(says "$app")"
! wait $waiter 2>/dev/null || fail "a layer was found"
wait_for 10 '[ "$(flights "f[\"waiting\"]")" = 0 ]' || fail "the dead one waits"
