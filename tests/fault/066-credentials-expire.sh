#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The credentials by which an image is shown end while it is shown: reads of what is not here fail within their
# deadline and the cause is told, what is here goes on; with new ones, given to any command, the same mount reads on.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse; need htpasswd
start_registry registry htpasswd
configure '[fill]' 'background = false' 'deadline = "3s"'
lazy image "$T/images/app" estargz 5 2
push "$T/images/app" test/app:1 --user 'tester:se cret:1'
unpacked "$T/images/app" "$T/truth"
ref=$REGISTRY/test/app:1
auth() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$REGISTRY" "$(printf '%s' "$1" | base64 -w0)" >"$DOCKER_CONFIG/config.json"; }
# password NEW: the registry knows no other from now on.
password() {
  htpasswd -Bbn tester "$1" 2>/dev/null | grep . >"$T/htpasswd"
  touch -d "@$(($(date +%s) + (clock += 10)))" "$T/htpasswd"   # it looks at the time
  cat "$T/htpasswd" >"$T/registry/htpasswd"; touch -r "$T/htpasswd" "$T/registry/htpasswd"
}
clock=0
here=usr/share/doc/1/45 far=usr/lib/random
for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode"
  password 'se cret:1'; auth 'tester:se cret:1'
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  cmp "$T/truth/$here" "$M/$mode/$here" || fail "$mode: before"
  password "another one of $mode"
  reads_fail "$M/$mode/$far"
  state "$M/$mode" | field '" ".join(l["reason"] for l in j["layers"])' | grep -qiE '401|unauthori|credential|login' ||
    fail "$mode: no cause: $(state "$M/$mode")"
  cmp "$T/truth/$here" "$M/$mode/$here" || fail "$mode: what is here"
  refuse 5 '401|unauthori|credential|login' ifs pull -q --pull always "$ref"
  auth "tester:another one of $mode"
  ifs pull -q "$ref" >/dev/null || fail "$mode: a pull with the new ones"
  cmp "$T/truth/$far" "$M/$mode/$far" || fail "$mode: the mount does not go on"
  ifs stop --unmount
done
