#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Bad values for every argument: status 1 or 2, one line, nothing on stdout, no hang, nothing of a library.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
unset IMAGEFS_CONFIG
image plain
ref=oci:$T/images/plain
mkdir "$M/a"
mkfifo "$T/fifo"
long=$($PY -c 'print("a" * 100000)')
head -c 3000 /dev/urandom >"$T/binary"
bad() {
  local status=0
  timeout -k 5 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@" >"$T/out" 2>"$T/err" </dev/null || status=$?
  [ $status -ge 1 ] && [ $status -le 10 ] || { cat "$T/err" >&2; fail "status $status: ${*:0:200}"; }
  [ "$(grep -c . "$T/err")" = 1 ] && grep -q '^imagefs: ' "$T/err" || { cut -c1-500 "$T/err" >&2; fail "not one line of ours: $*"; }
  [ ! -s "$T/out" ] || fail "it prints: $*"
  grep -qP '[\x00-\x08\x0b-\x1f\x7f]' "$T/err" && fail "control characters: $*"
  [ "$(wc -c <"$T/err")" -le 2200 ] || fail "$(wc -c <"$T/err") bytes: ${*:0:100}"
}
ifs images >/dev/null
bad "$long"; bad $'\e[31m'; bad help "$long"; bad --; bad -; bad ''
bad mount "$ref" ''; bad mount '' "$M/a"; bad mount "$ref" "$T/fifo"; bad mount "$ref" "$M/$long"; bad mount "$ref" $'/tmp/\xe9'
bad mount "$ref" $'/tmp/\e[31m'; bad mount "$T/fifo" "$M/a"; bad mount "oci:$T/fifo" "$M/a"; bad mount "oci-archive:$T/fifo" "$M/a"
bad mount "docker-archive:$T/fifo" "$M/a"; bad mount "oci-archive:$T" "$M/a"; bad mount --context "$long" "$ref" "$M/a"
bad mount --map-uids '' "$ref" "$M/a"; bad mount --context '' "$ref" "$M/a"; bad mount --platform '' "$ref" "$M/a"
bad mount -q --rw --upper "$T/fifo" "$ref" "$M/a"; bad mount -q --rw --upper /proc "$ref" "$M/a"; bad mount -o 'context=' "$ref" "$M/a"
bad mount "$ref" "$ROOT/x"; bad mount "$ref" "$RUN"; bad mount --creds a:b "$ref" "$M/a"; bad mount --deadline 1.5 "$ref" "$M/a"
bad umount ''; bad umount "/$long"; bad umount $'\xff'; bad umount $'/a\nb'; bad umount "$T/fifo"
bad pull --wait "$T/fifo"; bad pull --wait ''; bad status "$T/fifo"; bad status ''; bad status $'/\xff'
bad rm ''; bad rm $'\xc3\x28'; bad evict ''; bad drop ''; bad add ''; bad add --name '' "$ref"; bad add --name "$long" "$ref"
bad index --push -o '' "$ref"; bad index -o /nonexistent/x "$ref"; bad index -o "$T" "$ref"; bad index -o "$T/fifo" "$ref"
bad index -o /dev/full "$ref"; bad index --to '' "$ref"; bad index --push --sign '' "$ref"; bad index --push --sign "$T/fifo" "$ref"
bad index --push --sign "$T" "$ref"; bad index --push --sign "$T/binary" "$ref"
bad profile import "$ref" ''; bad profile import "$ref" "$T/binary"; bad profile import "$ref" "$T/fifo"; bad profile import "$ref" "$T"
bad profile import "$ref" "$IMAGEFS"; bad profile show "$ref" file; bad rpull --address "$T/fifo" alpine; bad rpull --address '' alpine
bad rpull --namespace '' alpine; bad inspect "oci-archive:$T/fifo"; bad inspect "$long"
ifs stop
for file in "$T/fifo" "$T" /dev/zero /nonexistent "$T/binary" ''; do
  bad --config "$file" images
  [ "$file" = "$T/fifo" ] || bad --check-config "$file"
  bad --ca-file "$file" images
done
same "daemons" "" "$(daemons)"
export DOCKER_CONFIG=$T/pipes
mkdir "$DOCKER_CONFIG"; mkfifo "$DOCKER_CONFIG/config.json"
bad pull -q 127.0.0.1:1/none:1
rm "$DOCKER_CONFIG/config.json"

# Surroundings.
env -u HOME -u XDG_DATA_HOME "$IMAGEFS" --root "$ROOT" --run "$RUN" images >/dev/null || fail "without HOME"
mkdir "$T/gone"
cd "$T/gone"
rmdir "$T/gone"
bad mount "$ref" relative; bad mount oci:relative "$M/a"; bad umount relative; bad --root relative images; bad rm oci:x
ifs images >/dev/null || fail "in a directory that was removed"
cd "$T"
for files in 4 6 8 12; do
  status=0
  (ulimit -n $files; "$IMAGEFS" --root "$ROOT" --run "$RUN" images >"$T/out" 2>"$T/err") || status=$?
  [ $status -le 1 ] || [ $status = 7 ] || { cat "$T/err"; fail "status $status with $files descriptors"; }
done
ifs mount -q "$ref" "$M/a" >/dev/null
ifs umount "$M/a"
nothing_left "$M"
ifs stop
