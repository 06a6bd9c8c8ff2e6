#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The password of a registry changes while an image of it is mounted whose bytes are not here yet: reads that come
# later ask for the new one where the old one came from, once for all of them; where there is none, they fail, and
# work again when there is.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need htpasswd
start_registry registry htpasswd
auth() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$REGISTRY" "$(printf '%s' "$1" | base64 -w0)" >"$DOCKER_CONFIG/config.json"; }
# password PASSWORD: from now on that of the registry, which looks at the file's time.
password() {
  htpasswd -Bbn tester "$1" 2>/dev/null | grep . >"$T/registry/htpasswd.new"
  touch -d "@$(($(stat -c %Y "$T/registry/htpasswd") + 10))" "$T/registry/htpasswd.new"
  mv "$T/registry/htpasswd.new" "$T/registry/htpasswd"
}
auth 'tester:se cret:1'
lazy image "$T/images/gzip" gzip
push "$T/images/gzip" test/gzip:1 --user 'tester:se cret:1'
publish gzip
truth gzip "$T/truth"
for mode in $(modes); do
  store "$mode"
  password 'se cret:1'
  auth 'tester:se cret:1'
  mkdir -p "$M/$mode"
  ifs mount -q --mode "$mode" --deadline 3 "$REGISTRY/test/gzip:1" "$M/$mode" >/dev/null
  same "state" filling "$(states "$M/$mode")"
  same "renewals" 0 "$(counter credential_renewals)"
  password 'new one'
  auth 'tester:new one'
  lazy readers "$T/truth" "$M/$mode" --readers 8 --seed "$mode" || fail "$mode: reads after the password has changed"
  same "renewed" 1 "$(counter credentials_renewed)"
  same "asked" 1 "$(counter credential_renewals)"
  ! grep -rqF 'new one' "$ROOT" "$RUN" 2>/dev/null || fail "a secret is in $(grep -rlF 'new one' "$ROOT" "$RUN")"
  ifs umount --all
  ifs stop

  # Nobody knows the new password for a while.
  store "$mode-later"
  ifs mount -q --mode "$mode" --deadline 3 "$REGISTRY/test/gzip:1" "$M/$mode" >/dev/null
  password 'third'
  reads_fail "$M/$mode/usr/share/doc/1/41"
  same "renewed" 0 "$(counter credentials_renewed)"
  auth 'tester:third'
  wait_for 30 'cmp -s "$T/truth/usr/share/doc/1/41" "$M/$mode/usr/share/doc/1/41" 2>/dev/null' || fail "$mode: the new password is never found"
  same "renewed" 1 "$(counter credentials_renewed)"
  ifs umount --all
  ifs stop
  # An anonymous caller gets no credential of the daemon's in the middle of it.
  echo '{}' >"$DOCKER_CONFIG/config.json"
  refuse 5 'credential|login|unauthori|401' ifs pull -q --pull always "$REGISTRY/test/gzip:1"
  ifs stop
done
