#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Everything that a network and a registry may do wrong. For a moment: no reader learns of it. For longer than
# a read may wait: one EIO after one deadline, `status` names the cause, and the registry is asked few times.
# Afterwards: the right bytes. A wrong byte: never. Pulls end, with the cause.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 5 2
publish app
truth app "$T/truth"
configure '[fill]' 'background = false' 'deadline = "3s"'
start_shaper stalled
stalled=$SHAPED stalled_shaper=$SHAPER
start_shaper line
file=usr/lib/random
B='"path": "/blobs/"'
calm() { shape rules '[]' >/dev/null; shape set rate=0 rtt=0 redirect=0 link_seconds=60 >/dev/null; }

# A pull of a lazy mount from a registry that is silent ends by itself, after two minutes.
store stalled
mkdir -p "$M/stalled"
ifs mount -q --mode fuse "$stalled/test/app:1" "$M/stalled" >/dev/null
$PY "$LIB/shaper.py" ctl "$stalled_shaper" rules "[{$B, \"delay\": 3600}]" >/dev/null
(status=0; timeout 400 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull --wait "$M/stalled" >"$T/stalled.out" 2>&1 || status=$?
 echo "$status" >"$T/stalled.status") &
TEST_PIDS+=($!)

number=0
mapfile -t modes < <(modes)
# fault NAME CERTAIN RULES [SETTING...]: CERTAIN is the status of a pull and what it says, "" where it succeeds.
fault() {
  local name=$1 says=$2 rules=$3 mode; shift 3
  number=$((number + 1))
  mode=${modes[number % ${#modes[@]}]}
  calm
  # For a moment, however long this machine needs to end it.
  store "$name-moment"
  mkdir -p "$M/$name-moment" "$M/$name"
  ifs mount -q --mode "$mode" --deadline 60 "$SHAPED/test/app:1" "$M/$name-moment" >/dev/null
  [ $# = 0 ] || shape set "$@" >/dev/null
  shape rules "$rules" >/dev/null
  forget_requests
  cat "$M/$name-moment/etc/4097" >"$T/got" 2>"$T/said" & local reader=$!
  wait_for 1 '[ -s "$SHAPER/requests" ]' || true
  calm
  # Bytes that were wrong three times are certain at once.
  if wait $reader; then
    cmp "$T/truth/etc/4097" "$T/got" || fail "$name, $mode: wrong bytes"
  elif [ "$name" != flipped-byte ]; then
    fail "$name, $mode: a reader met it: $(cat "$T/said")"
  fi
  ifs umount --all
  ifs stop
  # For longer than a read may wait.
  store "$name"
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$M/$name" >/dev/null
  [ $# = 0 ] || shape set "$@" >/dev/null
  shape rules "$rules" >/dev/null
  forget_requests
  local began=$EPOCHREALTIME status=0
  cat "$M/$name/$file" >"$T/got" 2>"$T/said" || status=$?
  local took; took=$($PY -c "print(int(1000 * ($EPOCHREALTIME - $began)))")
  if [ "$status" = 0 ]; then
    cmp "$T/truth/$file" "$T/got" || fail "$name, $mode: wrong bytes"
  else
    grep -q 'Input/output error' "$T/said" || fail "$name, $mode: $(cat "$T/said")"
    cmp -n "$(stat -c %s "$T/got")" "$T/truth/$file" "$T/got" || fail "$name, $mode: wrong bytes before the error"
    state "$M/$name" | field 'any(l["reason"] for l in j["layers"])' | grep -q true || fail "$name, $mode: status names no cause"
  fi
  # What comes within the time of a read is no fault to its reader.
  [ "$name" != late-answers ] || [ "$status" = 0 ] || fail "$name, $mode: $(cat "$T/said")"
  local requests; requests=$(grep -c '/blobs/' "$SHAPER/requests" || true)   # without the steps of a redirect
  echo "$name, $mode: $([ "$status" = 0 ] && echo read || echo EIO) after $took ms, $requests requests"
  [ "$requests" -le 60 ] || fail "$name, $mode: $requests requests"
  # The end of it.
  calm
  wait_for 20 'cmp -s "$T/truth/$file" "$M/'"$name/$file"'"' || fail "$name, $mode: it does not read again"
  lazy readers "$T/truth" "$M/$name" --readers 2 --seed "$name" || fail "$name, $mode: $(tail -3 "$RUN/daemon.log")"
  ifs umount --all
  ifs stop
  # A pull.
  store "$name-pull"
  [ $# = 0 ] || shape set "$@" >/dev/null
  shape rules "$rules" >/dev/null
  if [ "$says" = - ]; then :
  elif [ -n "$says" ]; then
    refuse "${says%% *}" "${says#* }" timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$SHAPED/test/app:1"
  else
    timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$SHAPED/test/app:1" >/dev/null
  fi
  calm
  ifs pull -q "$SHAPED/test/app:1" >/dev/null || fail "$name: no pull afterwards"
  ifs stop
  rm -rf "$T/store-$name" "$T/store-$name-moment" "$T/store-$name-pull"
}

fault cut-orderly '8 cut' "[{$B, \"cut\": 3000}]"
fault cut-some '' "[{$B, \"every\": 2, \"cut\": 20000}]"
fault reset-at-0 '8 cut' "[{$B, \"cut\": 0, \"reset\": true}]"
fault stall - "[{$B, \"delay\": 3600}]"
fault slow-1kB - "[]" rate=1kB
fault late-answers '' "[{$B, \"delay\": 2}]"
fault late-answers '' "[{$B, \"delay\": 2}]"
fault flipped-byte '3 digest' "[{$B, \"wrong_byte\": 50000}, {$B, \"wrong_byte\": 250000}, {$B, \"wrong_byte\": 10}]"
fault s401 '5 does not give it to anonymous users' "[{$B, \"status\": 401, \"headers\": {\"WWW-Authenticate\": \"Basic realm=x\"}}]"
fault s403 '5 does not give it to anonymous users' "[{$B, \"status\": 403}]"
fault s404 '4 does not exist' "[{$B, \"status\": 404}]"
fault s416 '3 fewer bytes' "[{$B, \"status\": 416}]"
fault s429-soon '8 too many requests' "[{$B, \"status\": 429, \"retry_after\": 1}]"
fault s429-tomorrow '8 too many requests' "[{$B, \"status\": 429, \"retry_after\": 86400}]"
fault s500 '8 HTTP status 500' "[{$B, \"status\": 500}]"
fault s503-half '' "[{$B, \"share\": 0.5, \"status\": 503}]"
fault s200-html '3 has 27 bytes|digest' "[{$B, \"status\": 200, \"body\": \"<html>captive portal</html>\"}]"
fault s206-other '3 range' "[{$B, \"status\": 206, \"headers\": {\"Content-Range\": \"bytes 0-9/100\"}, \"body\": \"0123456789\"}]"
fault s301-loop '1 redirects more than' "[{$B, \"status\": 301, \"headers\": {\"Location\": \"/v2/loop\"}}, {\"path\": \"loop\", \"status\": 301, \"headers\": {\"Location\": \"/v2/loop\"}}]"
fault s307-dead '8 refused' "[{$B, \"status\": 307, \"headers\": {\"Location\": \"http://127.0.0.1:1/x\"}}]"
fault ignore-range '' "[{$B, \"ignore_range\": true}]"
fault expired-link - "[]" redirect=1 link_seconds=0.01
fault s204 '1 HTTP status 204' "[{$B, \"status\": 204}]"
fault s999 '8 HTTP status 999' "[{$B, \"status\": 999}]"

wait_for 300 '[ -s "$T/stalled.status" ]' || fail "the pull from a silent registry does not end"
same "its exit status" 8 "$(cat "$T/stalled.status")"
grep -q 'nothing was received of layer .* for 120 s' "$T/stalled.out" || fail "it says: $(cat "$T/stalled.out")"
grep -q 'sends nothing' "$T/stalled.out" || fail "meanwhile it says: $(cat "$T/stalled.out")"
