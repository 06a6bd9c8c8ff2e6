#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The store of an earlier release (tests/fault/data/make_store.sh) is opened by this one, on a machine that was started
# since, without the registry: every image is there, every byte right, and a check finds nothing.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need xz
for packed in "$TESTS"/fault/data/store-*.tar.xz; do
  name=$(basename "$packed" .tar.xz)
  mkdir -p "$T/$name"
  tar -C "$T/$name" --numeric-owner -xf "$packed"
  ref=$(cat "$T/$name/reference")
  ROOT=$T/$name/store RUN=$T/$name/run
  for mode in $(modes); do
    mkdir -p "$M/$mode"
    ifs mount -q --pull never --mode "$mode" "$ref" "$M/$mode" >/dev/null || fail "$name, $mode: no mount"
    (cd "$M/$mode" && sha256sum --quiet -c "$T/$name/files") || fail "$name, $mode: wrong bytes"
    same "$name, $mode: names" "$(wc -l <"$T/$name/files")" "$(find "$M/$mode" -type f | wc -l)"
  done
  same "$name: images" 2 "$(ifs images --json | field 'len(j)')"
  ifs check --json >"$T/check" || fail "$name: $(cat "$T/check")"
  same "$name: states" right "$(field '" ".join(sorted({l["state"] for l in j["layers"]}))' <"$T/check")"
  ifs umount --all
  # And what this one writes stays with what it found.
  ifs stop
  wait_for 20 '[ -z "$(daemons)" ]' || fail "still running"
  ifs mount -q --pull never --mode fuse "$ref" "$M/fuse" >/dev/null || fail "$name: no mount after a restart"
  (cd "$M/fuse" && sha256sum --quiet -c "$T/$name/files") || fail "$name: wrong bytes after a restart"
  ifs stop --unmount
done
