#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A mirror that dies, stalls, lies and comes back while layers are read through it: no byte is lost or wrong, nobody
# waits for it twice, and the registry is asked only for what the mirror owes.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 7 24
publish app
start_shaper origin
ORIGIN=$SHAPED ORIGIN_SHAPER=$SHAPER
start_shaper mirror
MIRROR=$SHAPED
configure_hosts '[index]' 'trust = "any"'
host_file registry.test <<<"server = \"http://$ORIGIN\"
[host.\"http://$MIRROR\"]"
ref=registry.test/test/app:1
mkdir -p "$T/m" "$T/truth"
truth app "$T/truth"
right() { lazy readers "$T/truth" "$T/m" --readers 4 || fail "$1: wrong bytes"; }
of_origin() { SHAPER=$ORIGIN_SHAPER sent app; }
round=0
# reads WHAT: a new store mounts the image through the mirror, and every file is right.
begin() {
  store "round-$((++round))"
  SHAPER=$ORIGIN_SHAPER forget_requests
  forget_requests
  shape rules '[]' >/dev/null
  ifs mount -q "$ref" "$T/m" || fail "$1: no mount"
}
finish() {
  right "$1"
  ifs umount "$T/m" >/dev/null
  ifs stop
}

begin "a good mirror"
finish "a good mirror"
same "bytes of the registry" 0 "$(of_origin)"

begin "a mirror that dies"
head -c 100000 "$(find "$T/m" -type f -size +1M | head -1)" >/dev/null
shape rules '[{"path": "/blobs/", "cut": 5000, "nth": 1}, {"path": "/blobs/", "cut": 0, "reset": true}]' >/dev/null
finish "a mirror that dies"
[ "$(of_origin)" -gt 0 ] || fail "the registry was not asked"

begin "a mirror that says 503"
shape rules '[{"path": "/blobs/", "status": 503, "retry_after": 1}]' >/dev/null
finish "a mirror that says 503"
refused=$(grep -c '"status": 503' "$SHAPER/requests")
[ "$refused" -lt 20 ] || fail "the mirror was asked $refused times"

begin "a mirror that lies"
shape rules '[{"path": "/blobs/", "wrong_byte": 3000000}]' >/dev/null
finish "a mirror that lies"
[ "$(of_origin)" -gt 0 ] || fail "the registry was not asked"

begin "a mirror that stalls"
shape rules '[{"path": "/blobs/", "delay": 300}]' >/dev/null
finish "a mirror that stalls"

begin "a mirror that comes back"
shape rules '[{"path": "/blobs/", "cut": 0, "times": 1}]' >/dev/null
head -c 100000 "$(find "$T/m" -type f -size +1M | head -1)" >/dev/null
sleep 5
before=$(sent app)
finish "a mirror that comes back"
[ "$(sent app)" -gt "$before" ] || fail "the mirror was not asked again"

# Nobody listens there: found out once, not for each of the requests.
closed=127.0.0.1:$(free_port)
host_file registry.test <<<"server = \"http://$ORIGIN\"
[host.\"http://$closed\"]"
begin "a dead mirror"
ifs status --json >"$T/status"
same "what is known of it" "http://$closed/v2" "$(field 'j["endpoints"][0]["endpoint"]' <"$T/status")"
finish "a dead mirror"
