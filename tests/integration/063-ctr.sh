#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# ctr over the daemon as its snapshotter. Version 2 sends labels: lazy, in two namespaces, each of which has to show the
# registry credentials of its own. Version 1 sends none: unpacked, and all that a snapshotter does otherwise.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2
start_registry registry htpasswd
start_proxy line
plain_host "$PROXY"
login() { printf '{"auths":{"%s":{"auth":"%s"}}}' "$1" "$(printf '%s' "$2" | base64)" >"$DOCKER_CONFIG/config.json"; }
login "$REGISTRY" 'tester:se cret:1'
layered_image app --user 'tester:se cret:1'
ref=$PROXY/test/app:1
pull() { own_ctr -n "$1" image pull --hosts-dir "$T/hosts" --snapshotter imagefs --user 'tester:se cret:1' "${@:2}" >"$T/pull.out" 2>&1; }
show() { # NAMESPACE: what a container of the image prints
  own_ctr -n "$1" run --rm --snapshotter imagefs "$ref" "c$RANDOM" sh -c 'cat /etc/motd; [ -e /gone ] && echo gone; echo new >/etc/motd; cat /etc/motd; find /data -type f | wc -l' 2>&1 | tr '\n' ' '
}
# ctr itself compares whole names.
committed() { snapshots "$1" | grep -c Committed || true; }

login "$PROXY" 'tester:se cret:1'
ROOT=$T/root2 RUN=$T/run2
serve
start_containerd two 2 imagefs
pull one "$ref" || { cat "$T/pull.out"; fail "pull"; }
requests layers "$T/images/app"
same "unpacked" 0 "$(counter snapshot_layers_unpacked)"
same "lazy" 5 "$(counter snapshot_layers_lazy)"
same "container" "three new 300 " "$(show one)"

# Another namespace has its own names for the same layers, and asks with the same credentials: nothing is fetched.
pull other "$ref" || { cat "$T/pull.out"; fail "pull in another namespace"; }
requests layers "$T/images/app"
same "container of the other namespace" "three new 300 " "$(show other)"
same "each has its five" "5 5" "$(committed one) $(committed other)"
wait_for 30 '[ "$(counter snapshots)" = 5 ]' || fail "not one chain of snapshots for both: $(counter snapshots)"

# A third one: the daemon's credentials for that registry are gone, so that nothing shows that the layers here may be
# seen. containerd itself has its user's, fetches and unpacks.
login "$PROXY" 'tester:wrong'
pull third "$ref" || { cat "$T/pull.out"; fail "pull where the daemon has no credentials"; }
same "container of the third namespace" "three new 300 " "$(show third)"
same "unpacked for it" 5 "$(counter snapshot_layers_unpacked)"
daemon_says 'snapshot.not_lazy .*refuses these credentials' || fail "the log does not say why"
login "$PROXY" 'tester:se cret:1'

# What ctr does with snapshots beside running containers.
top=$(own_ctr -n one snapshots --snapshotter imagefs ls | awk '$3 == "Committed" {print $1}' | while read -r name; do
  own_ctr -n one snapshots --snapshotter imagefs ls | awk '{print $2}' | grep -qx "$name" || echo "$name"; done)
mkdir "$M/view" "$M/active"
sh -c "$(own_ctr -n one snapshots --snapshotter imagefs view --target "$M/view" seen "$top")"
same "a view" three "$(cat "$M/view/etc/motd")"
! touch "$M/view/x" 2>/dev/null || fail "a view can be written"
sh -c "$(own_ctr -n one snapshots --snapshotter imagefs prepare --target "$M/active" work "$top")"
echo four >"$M/active/etc/motd"; rm -r "$M/active/data"; touch "$M/active/added"
umount "$M/view" "$M/active"
own_ctr -n one snapshots --snapshotter imagefs diff "$top" work | gzip -dc 2>/dev/null | tar -tv >"$T/diff" ||
  own_ctr -n one snapshots --snapshotter imagefs diff "$top" work | tar -tv >"$T/diff"
same "what was changed" ".wh.data added etc/ etc/motd" "$(awk '{print $6}' "$T/diff" | grep -v '^/$\|^\./$' | sort | tr '\n' ' ' | sed 's/ $//')"
own_ctr -n one snapshots --snapshotter imagefs commit mine work
sh -c "$(own_ctr -n one snapshots --snapshotter imagefs prepare --target "$M/active" again mine)"
same "over a commit" "four added" "$(cat "$M/active/etc/motd") $(cd "$M/active" && ls added)"
[ ! -e "$M/active/data" ] || fail "what was removed is back"
umount "$M/active"
same "usage" true "$(own_ctr -n one snapshots --snapshotter imagefs usage -b mine | awk 'NR == 2 {print ($2 > 0 && $3 >= 4) ? "true" : $0}')"
same "usage of a lazy layer" true "$(own_ctr -n one snapshots --snapshotter imagefs usage -b "$top" | awk 'NR == 2 {print ($2 > 300 * 4000 && $3 >= 300) ? "true" : $0}')"
own_ctr -n one snapshots --snapshotter imagefs label mine color=red >/dev/null
own_ctr -n one snapshots --snapshotter imagefs info mine | grep -q '"color": "red"' || fail "no label"
! own_ctr -n one snapshots --snapshotter imagefs rm "$top" 2>/dev/null || fail "a parent is removed"
# The view had no root in containerd, whose collector has taken it.
for name in again mine; do own_ctr -n one snapshots --snapshotter imagefs rm "$name"; done

# One namespace forgets the image: the other still has it. Then nothing is left.
own_ctr -n one image rm --sync "$ref" >/dev/null
same "the other namespace" "three new 300 " "$(show other)"
for namespace in other third; do own_ctr -n $namespace image rm --sync "$ref" >/dev/null; done
wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay"
wait_for 30 '[ -z "$(ls "$ROOT/layers" "$ROOT/chains" "$ROOT/snapshots" | grep -v :)" ]' || fail "files stay: $(ls "$ROOT"/*)"
same "mounts" "" "$(mounts_below "$RUN")"
stop_containerd; stop_serving

# Version 1.
ROOT=$T/root1 RUN=$T/run1
serve
start_containerd one 1 imagefs
pull one "$ref" || { cat "$T/pull.out"; fail "pull by version 1"; }
same "container" "three new 300 " "$(show one)"
wait_for 30 '[ "$(counter snapshot_layers_lazy) $(ls "$ROOT/snapshots" | wc -l)" = "0 5" ]' || fail "its layers: $(ls "$ROOT/snapshots")"
own_ctr -n one image rm --sync "$ref" >/dev/null
wait_for 30 '[ "$(counter snapshots)" = 0 ] && [ -z "$(ls "$ROOT/snapshots")" ]' || fail "snapshots stay"
