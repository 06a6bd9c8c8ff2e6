#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images given to podman: what it lists and says of them, several names, a tag that moves, a podman that runs meanwhile,
# what is refused, and a daemon that ends, is killed, or finds its registry gone.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/podman.sh"
need_podman; need setpriv
start_registry registry
tools_image app one
tools_image next two
push "$T/images/app" test/app:1
push "$T/images/next" test/next:1
app=$REGISTRY/test/app next=$REGISTRY/test/next

# The store is there before anything is in it, so that podman can be configured at any time.
same "images at first" '[]' "$(ifs add --list --json | field 'j["images"]')"
same "the store" "$ROOT/podman" "$(ifs add --list --json | field 'j["store"]')"
use_podman one
same "what podman has" "" "$(listed)"

# One image.
ifs add -q --json "$app:1" >"$T/added.json"
same "name" "$app:1" "$(field 'j["images"][0]["name"]' <"$T/added.json")"
same "id" "$(image_id app)" "$(field 'j["images"][0]["image_id"]' <"$T/added.json")"
same "manifest" "$(manifest_digest app)" "$(field 'j["images"][0]["manifest"]' <"$T/added.json")"
same "what podman has" "$app:1" "$(listed)"
own_podman image exists "$app:1" || fail "podman does not know it"
same "id" "$(image_id app)" "$(own_podman image inspect --format '{{.Id}}' "$app:1")"
same "digest" "$(manifest_digest app)" "$(own_podman image inspect --format '{{.Digest}}' "$app:1")"
same "configuration" 'one [cat /word] [PATH=/bin:/usr/bin]' \
  "$(own_podman image inspect --format '{{.Labels.word}} {{.Config.Cmd}} {{.Config.Env}}' "$app:1")"
same "layers" "$(field '" ".join(j["rootfs"]["diff_ids"])' <"$T/images/app/blobs/sha256/$(image_id app)")" \
  "$(own_podman image inspect --format '{{range .RootFS.Layers}}{{.}} {{end}}' "$app:1" | sed 's/ $//')"
same "read-only" true "$(own_podman images --format '{{.ReadOnly}}' | head -1)"
[ "$(own_podman image inspect --format '{{.Size}}' "$app:1")" -gt 1000000 ] || fail "its size"
same "history" 4 "$(own_podman history -q "$app:1" | wc -l)"
same "its command" one "$(says "$app:1")"
same "by digest" one "$(says "$app@$(manifest_digest app)")"
same "by id" one "$(says "$(image_id app)")"
! own_podman rmi "$app:1" 2>/dev/null || fail "podman removes what it was lent"

# What is built on top of it is podman's own, over ours.
printf 'FROM %s:1\nRUN echo built >>/word\nRUN rm -r /data\n' "$app" >"$T/Containerfile"
own_podman build -q --isolation chroot --pull-never -t localhost/built:1 -f "$T/Containerfile" "$T" >/dev/null 2>"$T/build.log" || { cat "$T/build.log"; fail "build"; }
same "what was built" "one built ls: cannot access '/data': No such file or directory status 2" "$(says localhost/built:1 sh -c 'cat /word; ls /data')"
run --name changed "$app:1" sh -c 'echo changed >/word' && own_podman commit -q changed localhost/changed:1 >/dev/null
same "what was committed" changed "$(says localhost/changed:1 cat /word)"
# To be pushed it needs bytes that are not there, and that is noticed.
! own_podman push -q localhost/built:1 "dir:$T/pushed" 2>"$T/push.log" || fail "an image is pushed with layers that are made up"
grep -qi 'digest did not match' "$T/push.log" || fail "push says: $(cat "$T/push.log")"
own_podman --runtime runc rm changed >/dev/null
own_podman rmi -f localhost/built:1 localhost/changed:1 >/dev/null
same "what podman has" "$app:1" "$(listed)"

# Other names, among them one of a digest; the same bytes.
layers=$(counter layers_built)
ifs add -q "$app@$(manifest_digest app)" >/dev/null
ifs add -q --name localhost/mine "$app:1" >/dev/null
same "names" "$app:1 $app@$(manifest_digest app) localhost/mine:latest" "$(names)"
same "one image" "$(image_id app)" "$(own_podman images -q --no-trunc | sort -u | cut -d: -f2)"
same "by the other name" one "$(says mine)"
same "layers made" "$layers" "$(counter layers_built)"
# A manifest of the same configuration is the same image.
$PY - "$T/images/app" <<'P'
import hashlib, json, shutil, sys
index = json.load(open(sys.argv[1] + "/index.json"))
manifest = json.load(open(f"{sys.argv[1]}/blobs/sha256/{index['manifests'][0]['digest'][7:]}"))
text = json.dumps({**manifest, "annotations": {"another": "manifest"}}).encode()
digest = hashlib.sha256(text).hexdigest()
shutil.copytree(sys.argv[1], sys.argv[1] + "-other")
open(f"{sys.argv[1]}-other/blobs/sha256/{digest}", "wb").write(text)
index["manifests"][0].update(digest="sha256:" + digest, size=len(text))
json.dump(index, open(sys.argv[1] + "-other/index.json", "w"))
P
ifs add -q --name localhost/other:1 "oci:$T/images/app-other" >/dev/null
same "one image still" "$(image_id app)" "$(own_podman images -q --no-trunc | sort -u | cut -d: -f2)"
for digest in "$(manifest_digest app)" "$(manifest_digest app-other)"; do
  same "by digest" one "$(says "localhost/other@$digest")"
done
ifs drop "oci:$T/images/app-other" localhost/mine "$app@$(manifest_digest app)" >/dev/null
same "names" "$app:1" "$(names)"
! own_podman image exists localhost/other:1 || fail "a dropped name is known"

# A podman that runs sees what comes, moves and goes.
own_podman system service -t 0 "unix://$T/podman.sock" >"$T/service.log" 2>&1 &
TEST_PIDS+=($!)
served() { curl -sf --max-time 20 --unix-socket "$T/podman.sock" "http://d/v4.0.0/libpod/images/json" |
  field '" ".join(sorted(n + "=" + i["Id"][:12] for i in j for n in i.get("Names", [])))'; }
wait_for 20 'served >/dev/null 2>&1' || fail "podman's service does not start"
id() { image_id "$1" | cut -c1-12; }
same "the service" "$app:1=$(id app)" "$(served)"
ifs add -q "$next:1" >/dev/null
same "the service" "$app:1=$(id app) $next:1=$(id next)" "$(served)"
# The tag moves to the other image: only who asks learns it.
push "$T/images/next" test/app:1
ifs add -q "$app:1" >/dev/null
same "the service" "$app:1=$(id app) $next:1=$(id next)" "$(served)"
ifs add -q --pull always "$app:1" >/dev/null
same "the service" "$app:1=$(id next) $next:1=$(id next)" "$(served)"
same "the moved tag" two "$(says "$app:1")"
wait_for 20 '[ "$(ls "$ROOT/chains" | wc -l)" = 1 ]' || fail "the image that lost its name stays: $(ls "$ROOT/chains")"
ifs drop "$next:1" >/dev/null
same "the service" "$app:1=$(id next)" "$(served)"
kill "${TEST_PIDS[-1]}"

# Refused, and nothing is changed by it.
before=$(names)
refuse 2 'invalid reference' ifs add UPPER:bad
refuse 2 'images or --list' ifs add
refuse 2 'images or --list' ifs add --list "$app:1"
refuse 2 'one image' ifs add --name a:1 "$app:1" "$next:1"
refuse 1 'no name that podman knows.*--name' ifs add -q "oci:$T/images/app"
refuse 1 'podman cannot read the name .*--name' ifs add -q --name '[::1]:5000/app:1' "$app:1"
refuse 4 "$REGISTRY/test/app:nothing" ifs add -q "$app:nothing"
refuse 4 'not in the store; fetch it' ifs add -q --pull never "$REGISTRY/test/never:1"
refuse 4 'was not given .*other:9.*add --list' ifs drop "$app:1" "$REGISTRY/test/other:9"
same "names" "$before" "$(names)"
chmod 711 "$T"; mkdir "$T/home"; chown nobody "$T/home"
as_user() { env -i PATH="$PATH" HOME="$T/home" setpriv --reuid=nobody --clear-groups "$IMAGEFS" --root "$T/home/root" --run "$T/home/run" "$@"; }
refuse 5 'root' as_user add -q "$app:1"
refuse 5 'root' as_user add --list
as_user stop

# A registry that fails: what is here goes on; what comes is refused with its name and the cause.
start_proxy line
rules '[{"status": 503, "body": "no"}]'
refuse 8 "$PROXY/test/app:1.*503" ifs add -q "$PROXY/test/app:1"
slay "${TEST_PIDS[0]}"
wait "${TEST_PIDS[0]}" 2>/dev/null || true  # so that bash says nothing of it later
refuse 8 "$REGISTRY" ifs add -q --pull always "$app:1"
same "names" "$before" "$(names)"
same "without a registry" two "$(says "$app:1")"

# A daemon that ends, or is killed: the next one shows it again, without the registry; containers run meanwhile.
kernel=$(modes | grep -cx kernel || true)
run -d --name lasting "$app:1" sh -c 'while sleep 0.1; do cat /data/1 >/dev/null || echo broken; done' >/dev/null
for signal in TERM KILL; do
  kill -$signal "$(daemons)"
  wait_for 20 '[ -z "$(daemons)" ]' || fail "the daemon does not end"
  [ "$kernel" = 0 ] || same "without a daemon" two "$(says "$app:1")"
  same "names after SIG$signal" "$app:1" "$(names)"
  same "after SIG$signal" two "$(says "$app:1")"
  same "what podman has" "$app:1" "$(listed)"
done
same "the container" running "$(own_podman inspect --format '{{.State.Status}}' lasting)"
[ "$kernel" = 0 ] || same "its reads" "" "$(own_podman logs lasting)"
same "mounts" 1 "$(mounts_below "$RUN" | grep -c /chains/)"

# Everything is unmounted, and comes back with the next daemon.
own_podman --runtime runc rm -f -t 0 lasting >/dev/null
ifs stop --unmount
same "what podman has" "" "$(listed)"
same "mounts" "" "$(mounts_below "$RUN")"
ifs add --list >/dev/null
same "what podman has" "$app:1" "$(listed)"
same "again" two "$(says "$app:1")"

# Rubbish in podman's store is put right at the start.
ifs stop
printf x >"$ROOT/podman/overlay-images/images.json"
rm -r "$ROOT"/podman/overlay/l/*
mkdir "$ROOT/podman/overlay/stray" "$ROOT/podman/overlay-images/stray"
touch "$ROOT/podman/overlay-layers/layers.json.tmp-1"
ifs add --list >/dev/null
same "after rubbish" two "$(says "$app:1")"
same "strays" "" "$(find "$ROOT/podman" -name 'stray' -o -name '*tmp*')"

# The last one goes: nothing is left.
ifs drop "$app:1" >/dev/null
same "what podman has" "" "$(listed)"
wait_for 20 '[ -z "$(ls "$ROOT/layers" "$ROOT/chains" | grep -v :)" ]' || fail "files stay: $(ls "$ROOT/layers" "$ROOT/chains")"
# shellcheck disable=SC2010  # what `ls` prints of several folders
same "in the store" "images.json images.lock l layers.json layers.lock" \
  "$(ls "$ROOT"/podman/* | grep -vE ':$|^$' | sort | tr '\n' ' ' | sed 's/ $//')"
same "mounts" "" "$(mounts_below "$RUN")"
