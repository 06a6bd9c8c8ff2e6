#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# CRI-O itself: pods of images that were added, whose layers it neither fetches nor unpacks; what the kubelet asks about such
# images; ends of CRI-O and of the daemon below a pod. Then pulls that find their layers in the layer store, if this CRI-O
# looks there.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/podman.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/crio.sh"
need_crio
echo "CRI-O $CRIO_VERSION"
start_registry registry
pause_image
tools_image app one
tools_image next two
push "$T/images/app" test/app:1
push "$T/images/next" test/next:1
publish app
app=$REGISTRY/test/app:1 next=$REGISTRY/test/next:1
all=$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(100))): h.update(random.Random(f"one {k}").randbytes(4000 + 137 * int(k)))
print(h.hexdigest())')
configure '[podman]' 'layers = true' 'lazy = "repository"' '[fill]' 'background = false'
known() { cri images | field '" ".join(sorted(t for i in j for t in i["repo_tags"]))'; }
says_in() { cri exec-sync "$@" | field 'j["stdout"].strip()'; }
sum_in() { says_in "$1" sh -c 'cat /data/* | sha256sum' | cut -d' ' -f1; }
# The daemon ends that way, and the next one goes on.
restart() {
  kill -"$1" "$(daemons)"
  wait_for 20 '[ -z "$(daemons)" ]' || fail "the daemon does not end"
  ifs images >/dev/null
}
restart_crio() {
  if [ "$1" = KILL ]; then kill_containerd; else stop_containerd; fi
  resume_crio
}

# The pod's two images are added, the pause image and one whose bytes are not here.
store one
ifs add -q "$app" "$PAUSE" >/dev/null
start_crio one "additionalimagestores = [\"$ROOT/podman\"]"
mark
same "what it has" "$app $PAUSE" "$(known)"
same "status" "$(image_id app)" "$(cri image-status "$app" | field 'j["image"]["id"]')"
same "by digest" "$(image_id app)" "$(cri image-status "$REGISTRY/test/app@$(manifest_digest app)" | field 'j["image"]["id"]')"
pod=$(pod one)
id=$(container "$pod" one main "$app" sh -c 'cat /word; echo mine >/word; rm /data/7; exec sleep 1000')
wait_for 20 '[ "$(cri logs "$id" | field "j[\"stdout\"].strip()")" = one ]' || fail "logs: $(cri logs "$id")"
same "what it wrote" mine "$(says_in "$id" cat /word)"
# As the kubelet asks: by id, with the pod's name for it.
other=$(USER_IMAGE=$app container "$pod" one other "$(image_id app)" sleep 1000)
same "another container" one "$(says_in "$other" cat /word)"
same "state" filling "$(ifs add --list --json | field '[i["state"] for i in j["images"] if i["name"] == "'"$app"'"][0]')"
same "all bytes" "$all" "$(sum_in "$other")"
same "layers that CRI-O fetched" 0 "$(fetched cri-o)"
same "files that CRI-O unpacked" 0 "$(unpacked)"

# Ends of either, below containers that run.
for signal in TERM KILL; do
  restart $signal
  same "a container after the daemon's SIG$signal" "mine $all" "$(says_in "$id" cat /word) $(sum_in "$other")"
  restart_crio $signal
  same "what it has after CRI-O's SIG$signal" "$app $PAUSE" "$(known)"
  same "states" 'CONTAINER_RUNNING CONTAINER_RUNNING' "$(cri ps | field '" ".join(c["state"] for c in j)')"
  same "a container after CRI-O's SIG$signal" "mine $all" "$(says_in "$id" cat /word) $(sum_in "$other")"
done

# What comes is seen by a CRI-O that runs. What the kubelet removes stays: it is not CRI-O's, whatever that answers.
ifs add -q "$next" >/dev/null
same "another image" "$app $next $PAUSE" "$(known)"
cri rmi "$next" >"$T/rmi" 2>&1 || grep -q 'not an image' "$T/rmi" || fail "what is removed: $(cat "$T/rmi")"
same "what is removed" "$app $next $PAUSE" "$(known)"
# A volume is made of CRI-O's own images only.
if crio_since 1.33; then
  ! cri create --image-volume "/volume=$next" "$pod" one volume "$app" sleep 1000 >"$T/volume" 2>&1 || fail "a volume of an added image"
  grep -q 'ImageVolumeMountFailed.*layer not known' "$T/volume" || fail "a volume: $(cat "$T/volume")"
fi
same "layers that CRI-O fetched" 0 "$(fetched cri-o)"
same "files that CRI-O unpacked" 0 "$(unpacked)"

# Who pulls what was added (imagePullPolicy: Always) gets CRI-O's own copy of newer versions. It is removed, ours is not.
cri pull "$next" >/dev/null
copied=$(fetched cri-o)
echo "a pull of an image that was added: $copied layers"
same "files of the copy" $((copied > 0 ? 100 : 0)) "$(unpacked)"
if [ "$copied" != 0 ] && crio_since 1.33; then
  volume=$(IMAGE_VOLUME=/volume=$next container "$pod" one volume "$app" sleep 1000)
  same "a volume of the copy" "two one" "$(says_in "$volume" cat /volume/word /word | tr '\n' ' ' | sed 's/ $//')"
  cri stop "$volume" >/dev/null
  cri rm "$volume" >/dev/null
fi
[ "$copied" = 0 ] || cri rmi "$next" >/dev/null
same "files of the copy afterwards" 0 "$(unpacked)"
same "ours" "$app $next $PAUSE" "$(known)"

# A container keeps the files of an image that is dropped; it ends like others.
ifs drop "$app" "$next" >/dev/null
same "what was dropped" "$PAUSE" "$(known)"
same "a container of it" "mine $all" "$(says_in "$id" cat /word) $(sum_in "$other")"
remove_pod "$pod"
ifs drop "$PAUSE" >/dev/null
same "mounts" "$RUN/als" "$(mounts_below "$RUN")"
stop_containerd

# The layer store: nothing is added, and the pull fetches nothing. Newer versions do not look there for such layers.
ifs images >/dev/null
start_crio two "additionallayerstores = [\"$RUN/als:ref\"]"
mark
cri pull "$app" "$PAUSE" >"$T/pulled" || fail "a pull: $(cat "$T/pulled")"
if crio_since 1.31; then
  same "layers found" 0 "$(counter podman_layers_found)"
  same "files that CRI-O unpacked" 100 "$(unpacked)"
else
  same "layers found" 5 "$(counter podman_layers_found)"
  same "layers that CRI-O fetched" 0 "$(fetched cri-o)"
  same "files that CRI-O unpacked" 0 "$(unpacked)"
fi
pod=$(pod two)
id=$(container "$pod" two main "$app" sleep 1000)
same "what it runs" "one $all" "$(says_in "$id" cat /word) $(sum_in "$id")"
for signal in TERM KILL; do
  restart $signal
  restart_crio $signal
  same "a container after SIG$signal" "one $all" "$(says_in "$id" cat /word) $(sum_in "$id")"
done
remove_pod "$pod"
cri rmi "$app" >/dev/null
same "what it has" "$PAUSE" "$(known)"
stop_containerd

# What docs/podman.md warns of: the check after an unclean end takes containers of added images for damaged, and everything
# goes. A CRI-O that fails here has learnt better.
ifs add -q "$app" "$PAUSE" >/dev/null
start_crio three "additionalimagestores = [\"$ROOT/podman\"]"
cri pull "$next" >/dev/null
pod=$(pod three)
id=$(container "$pod" three main "$app" sleep 1000)
restart_crio KILL
same "without the check" "1 $app $next $PAUSE" "$(cri ps | field 'len(j)') $(known)"
sed -i 's/^internal_repair = false/internal_repair = true/' "$CONTAINERD/crio.conf"
restart_crio KILL
same "with the check" "0 $app $PAUSE" "$(cri ps | field 'len(j)') $(known)"
