#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# imagefs check: reads whole layers from the disk, tells which are damaged, and has them fetched again.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 5 3
lazy_image two gzip 6 2
ref=$REGISTRY/test/app:1
ifs pull -q "$ref"
ifs pull -q "$REGISTRY/test/two:1"
wait_for 30 '[ "$(find "$ROOT/layers" -name access | wc -l)" = 4 ]' || fail "no span tables"
states() { field '" ".join(sorted(l["state"] for l in j["layers"]))'; }
same "all" "right right right right" "$(ifs check --json | states)"
same "one image" "right right" "$(ifs check --json "$ref" | states)"
ifs check "$ref" >"$T/out"
grep -q '^LAYER  *STATE  *SIZE' "$T/out" || fail "no table: $(cat "$T/out")"
refuse 4 'no image .*imagefs images' ifs check "$REGISTRY/test/none:1"
refuse 2 'reference' ifs check 'A B'

# The bytes on the disk turn while the daemon runs and the layer is not open; its times are as before.
layer=$(dirname "$(ls -S "$ROOT"/layers/*/data | head -1)")
$PY "$LIB/damage.py" keep-times flip "$layer/data" 5 1
status=0
ifs check --json >"$T/check" || status=$?
same "status" 3 $status
same "states" "repaired right right right" "$(states <"$T/check")"
$PY "$LIB/json_schema.py" check check "$T/check" || fail "the output is not as documented"
field '[l["reason"] for l in j["layers"] if l["state"] == "repaired"][0]' <"$T/check" | grep -q damaged || fail "no reason"
mkdir "$M/a"
truth app "$T/truth"
ifs mount -q "$ref" "$M/a" >/dev/null
$PY "$LIB/damage.py" read "$T/truth" "$M/a" || fail "wrong after it was repaired"
ifs pull -q --wait "$M/a" >/dev/null
wait_for 30 'ifs check >/dev/null' || fail "still damaged"

# Without a span table a layer is lost, and comes as a whole when it is asked for.
ifs umount "$M/a"
# The daemon may see the write first, and fetch what is still in use: then it is damaged once more.
for try in 1 2 3 4 5; do
  rm -f "$layer/access"
  $PY "$LIB/damage.py" flip "$layer/data" 5 $((20 + try))
  status=0
  ifs check --json "$ref" >"$T/check" || status=$?
  [ $status = 0 ] && grep -q layer.healed "$RUN/daemon.log" || break
done
same "status" 3 $status
same "states" "lost right" "$(states <"$T/check")"
ifs mount -q --eager "$ref" "$M/a" >/dev/null
$PY "$LIB/damage.py" read "$T/truth" "$M/a" || fail "wrong after it was fetched"

# A repair does at once what would come with the next mount, and says what it did, a line each.
ifs umount "$M/a"
wait_for 30 '[ -e "$layer/access" ]' || fail "no span table"
chain=$(ls -S "$ROOT"/chains/* | head -1)
rm -f "$layer/access"
$PY "$LIB/damage.py" flip "$layer/data" 5 3
$PY "$LIB/damage.py" flip "$chain" 5 4
echo x >"$ROOT/layers/stray"
status=0
ifs check --repair >"$T/out" || status=$?
same "status of a repair" 3 $status
grep -q "^layer sha256:$(basename "$layer"): .*damaged.*; fetched$" "$T/out" || fail "the layer: $(cat "$T/out")"
grep -q '^file layers/stray: no record names it; removed$' "$T/out" || fail "the stray: $(cat "$T/out")"
ifs check --repair --json >"$T/check" || fail "damaged after a repair: $(cat "$T/check")"
same "nothing is left" '[]' "$(field 'j["findings"]' <"$T/check")"
same "all is right" right "$(field '" ".join(sorted({l["state"] for l in j["layers"]}))' <"$T/check")"
slay "${TEST_PIDS[0]}"   # all of it without the registry
ifs mount -q --pull never "$ref" "$M/a" >/dev/null
$PY "$LIB/damage.py" read "$T/truth" "$M/a" || fail "wrong after a repair"
