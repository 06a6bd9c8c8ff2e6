#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Publishing without being asked: the first node publishes the index, the first one that runs the image lazily completes it by
# the profile and the hot pack, the next one starts by them, and finds nothing to publish; an index of others and a signed
# one stay; images that are not listed are not published, and a registry that refuses gets one attempt and one warning.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
files=(usr/bin/marked usr/share/doc/1/45 usr/share/doc/3/130 usr/lib/upper3)
# Only what is read before the background brings it is recorded.
publishing() { configure '[fill]' 'background = true' 'quiet = "3s"' '[index]' 'publish = true' 'publish_spread = "off"' "$@"; }
artifact() { lazy manifest "$REGISTRY/test/$1" "sha256-$(manifest_of "$1" | cut -d: -f2).imagefs" 2>/dev/null; }
of_layers() { artifact "$1" | field '" ".join(l["digest"] for l in j["layers"] if "layer-" in l["mediaType"])'; }
types() { artifact "$1" | field '" ".join(sorted({l["mediaType"].rsplit("/")[1].split(".")[2] for l in j["layers"]}))'; }
# begin STORE IMAGE: mounts it from a store of its own and reads some files.
begin() {
  local file
  store "$1"
  mkdir -p "$M/$1"/{app,other,refused,unlisted}
  ifs mount -q "$SHAPED/test/$2:1" "$M/$1/$2" >/dev/null
  for file in "${files[@]}"; do cmp "$T/truth-$2/$file" "$M/$1/$2/$file" || fail "$1: wrong bytes"; done
}
published() { wait_for 60 "log_says 'index.published .*$1'" || fail "not published: $(tail -20 "$RUN/daemon.log")"; }
end() { ifs umount --all; ifs stop; wait_for 30 '[ -z "$(daemons_of "$RUN")" ]' || fail "the daemon does not stop"; }
pushes() { grep -cE "\"path\": \"/v2/test/$1/[^\"]*\", \"method\": \"(POST|PUT)\"" "$SHAPER/requests" || true; }
for image in app other refused unlisted; do
  lazy_image $image gzip ${#image} 10
  truth $image "$T/truth-$image"
done

publishing
begin first app
published 'profile=no hot_pack_bytes=0'
same "counted" 1 "$(counter publications_pushed)"
same "what the first node published" "layer-index layer-windows" "$(types app)"
layers=$(of_layers app)
ifs umount "$M/first/app"
ifs mount -q "$SHAPED/test/app:1" "$M/first/app" >/dev/null
end
same "once" 1 "$(grep -c index.publish "$RUN/daemon.log")"

# The second node is lazy, so its reads are recorded; it publishes when its bytes are here.
begin second app
same "shown early" 2 "$(counter layers_lazy)"
published 'profile=yes hot_pack_bytes=[1-9]'
same "what the second node published" "hot-pack layer-index layer-windows profile" "$(types app)"
same "the same index" "$layers" "$(of_layers app)"
same "the recording" true "$(grep -m1 -n -E 'profile.recorded|index.published' "$RUN/daemon.log" | grep -q profile.recorded && echo true)"
end

# The third one starts by the pack, and leaves what is there; as would one that made a pass of its own.
forget_requests
begin third app
[ "$(counter hot_pack_bytes)" -gt 0 ] || fail "no pack: $(ifs status --json)"
wait_for 60 '[ "$(states "$M/third/app")" = complete ]' || fail "$(state "$M/third/app")"
end
publishing 'lookup = false'
begin pass app
wait_for 60 '[ "$(counter publications_found)" = 1 ]' || fail "$(tail -20 "$RUN/daemon.log")"
end
same "pushed again" 0 "$(pushes app)"

# An index of another machine, and one that is signed, is not replaced.
publish other
before=$(artifact other | sha256sum)
publishing 'lookup = false'
begin own other
wait_for 60 '[ "$(counter publications_found)" = 1 ]' || fail "$(tail -20 "$RUN/daemon.log")"
end
same "index of others" "$before" "$(artifact other | sha256sum)"
if command -v minisign >/dev/null; then
  minisign -G -W -f -p "$T/key.pub" -s "$T/key.sec" >/dev/null 2>&1
  chmod 600 "$T/key.sec"
  publish other --sign "$T/key.sec"
  before=$(artifact other | sha256sum)
  publishing
  begin signed other
  same "shown early" 2 "$(counter layers_lazy)"
  wait_for 60 '[ "$(counter publications_found)" = 1 ]' || fail "$(tail -20 "$RUN/daemon.log")"
  end
  same "signed index" "$before" "$(artifact other | sha256sum)"
else
  echo "NOT TESTED: a signed index: minisign is not installed" >&2
fi

# Refused: one attempt, one warning, and the mounts work.
publishing 'lookup = false' "publish_images = [\"$SHAPED/test/refused\"]"
shape rules '[{"path": "/test/refused/blobs/uploads/", "method": "POST", "status": 403}]' >/dev/null
forget_requests
begin bad unlisted
begin bad refused
wait_for 60 'log_says "index.publish_failed .*again=no"' || fail "no warning: $(tail -20 "$RUN/daemon.log")"
attempts=$(pushes refused)
for i in 1 2 3; do
  ifs umount "$M/bad/refused"
  ifs mount -q "$SHAPED/test/refused:1" "$M/bad/refused" >/dev/null
done
wait_for 60 '[ "$(counter publications_waiting)" = 0 ]' || fail "it waits"
same "what failed" 1 "$(counter publications_failed)"
end
same "warnings" 1 "$(grep -c 'index.publish_failed' "$RUN/daemon.log")"
same "attempts" "$attempts" "$(pushes refused)"
[ "$attempts" -gt 0 ] || fail "nothing was tried"
same "attempts for an image that is not listed" 0 "$(pushes unlisted)"
same "questions for its index" 0 "$(grep -cE '"path": "/v2/test/unlisted/(referrers|manifests/sha256-)' "$SHAPER/requests" || true)"
