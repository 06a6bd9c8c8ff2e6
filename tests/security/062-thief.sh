#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An image that only names the DiffIDs of a private image, or its blobs as well, gets nothing of it, whatever its
# registry says; those who may have the blobs fetch none of them again.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need htpasswd
start_registry private htpasswd
private=$REGISTRY
log=$REGISTRY_LOG
start_registry open
lazy image "$T/images/app" gzip 5 6
push "$T/images/app" test/open:1 >/dev/null
$PY "$LIB/claims.py" thief "$T/images/app" "$REGISTRY" test/thief
REGISTRY=$private push "$T/images/app" team/app:1 --user 'tester:se cret:1' >/dev/null
REGISTRY=$private push "$T/images/app" other/app:1 --user 'tester:se cret:1' >/dev/null
mkdir "$T/liar" "$M/a"
$PY "$LIB/claims.py" liar "$T/images/app" "$T/liar" 2>/dev/null & TEST_PIDS+=($!)
wait_for 20 '[ -e "$T/liar/port" ]' || fail "the lying registry does not start"
liar=127.0.0.1:$(cat "$T/liar/port")
printf '{"auths": {"%s": {"auth": "%s"}}}' "$private" "$(printf 'tester:se cret:1' | base64 -w0)" >"$DOCKER_CONFIG/config.json"

blobs_sent() { grep -c '"GET /v2/[a-z/]*/blobs/.* 200 [0-9]\{6,\}' "$log" || true; }
nothing_of_it() {
  refuse 3 'digest|DiffID|unpack|gzip|tar' timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q "$@" "$M/a"
  nothing_mounted=$(mounts_below "$M")
  [ -z "$nothing_mounted" ] || fail "mounted: $nothing_mounted"
}

ifs pull -q "$private/team/app:1"
for mode in $(modes); do
  for how in --eager ''; do
    nothing_of_it --mode "$mode" $how "$REGISTRY/test/thief:1"
    nothing_of_it --mode "$mode" $how "$liar/x:1"
  done
done
ifs stop
nothing_of_it "$REGISTRY/test/thief:1"
nothing_of_it "$liar/x:1"

# Another repository of the same registry, by the same user: asked, not fetched.
sent=$(blobs_sent)
ifs mount -q "$private/other/app:1" "$M/a" >/dev/null
ifs umount "$M/a"
same "blobs that came again" "$sent" "$(blobs_sent)"
grep -q '"HEAD /v2/other/app/blobs/' "$log" || fail "the registry was not asked whether the blobs are there"

# Another registry shows that it has the blobs by sending them.
ifs mount -q "$REGISTRY/test/open:1" "$M/a" >/dev/null
grep -q '"GET /v2/test/open/blobs/' "$REGISTRY_LOG" || fail "given without a blob"
ifs umount "$M/a"
# What was got without credentials is everybody's: nothing is asked for.
start_registry third
push "$T/images/app" test/third:1 >/dev/null
ifs mount -q "$REGISTRY/test/third:1" "$M/a" >/dev/null
for digest in $(field '" ".join(l["digest"] for l in j["layers"])' < <(ifs inspect --json "$REGISTRY/test/third:1")); do
  ! grep -qE "\"(GET|HEAD) /v2/test/third/blobs/$digest.*imagefs" "$REGISTRY_LOG" || fail "$digest was asked for"
done
ifs umount --all
ifs stop
