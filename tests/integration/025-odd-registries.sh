#!/bin/bash
# Registries that do what real ones do and the specification does not say (odd_registry.py list): each is pulled
# from, and shown lazily, with the bytes that an undisturbed one gives, and nobody but the registry sees a credential.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
lazy image "$T/images/odd" estargz 1 24
lazy image "$T/images/truth" gzip 1 24   # the same tree
mkdir -p "$T/odd" "$M/lazy" "$T/truth"
$PY "$LIB/odd_registry.py" "$T/odd" "$T/images/odd" 2>"$T/odd.log" &
TEST_PIDS+=($!)
wait_for 20 "[ -e '$T/odd/port' ]" || fail "the registry does not start"
read -r port other <"$T/odd/port"
HOST=127.0.0.1:$port
printf '{"auths": {"%s": {"auth": "%s"}}}' "$HOST" "$(printf 'alice:p4ssW0rd-of-alice' | base64 -w0)" >"$DOCKER_CONFIG/config.json"
(store truth && ifs mount -q --eager --mode fuse "oci:$T/images/truth" "$T/truth" >/dev/null)

# What skopeo and its libraries cannot read either, in the version that is here; the rest they can.
skopeo_fails=${SKOPEO_FAILS:-"busy names nodes once400 once401 once403 once404 once410 once416 once500 oncecut oncehtml oncereset vanity vanitylink"}
mode=$(modes | tail -1)
number=0
for name in ${ODD:-$($PY "$LIB/odd_registry.py" list)}; do
  groups=any
  case $name in ping* | token*) groups='any user' ;; esac
  for group in $groups; do
    number=$((number + 1))
    : >"$T/odd/log"
    ref=$HOST/$group/$name:1
    store "$number"
    ifs pull -q "$ref" >"$T/out" 2>"$T/err" || fail "$ref: pull: $(cat "$T/err")"
    [ ! -s "$T/err" ] || fail "$ref: pull says $(cat "$T/err")"
    ifs inspect "$ref" >/dev/null || fail "$ref: inspect"
    ifs rm "$ref" >/dev/null
    ifs stop
    store "$number.lazy"
    ifs mount -q --mode "$mode" "$ref" "$M/lazy" >"$T/out" 2>"$T/err" || fail "$ref: mount: $(cat "$T/err")"
    same "$ref: layers shown lazily" 2 "$(counter layers_lazy)"
    lazy readers "$T/truth" "$M/lazy" --readers 4 --seed "$number" || fail "$ref: wrong bytes"
    same "$ref: reads that failed" 0 "$(counter fill_reads_failed)"
    ifs umount "$M/lazy"
    ifs stop
    # Alice is known to the registry and its token service, and to nobody else.
    $PY - "$T/odd/log" "$group" <<'PY' || fail "$ref: credentials went astray, or where none were asked for"
import json, sys
requests = [json.loads(line) for line in open(sys.argv[1])]
assert not [r for r in requests if r["server"] == "other" and r["authorization"] not in (None, "Bearer any")], "other"
tokens = [r for r in requests if r["path"].startswith("/token") and r["server"] == "registry"]
assert all((r["authorization"] or "").startswith("Basic") for r in tokens), "token service"
assert sum(r["path"] == "/v2/" for r in requests) <= 2, "the root was asked again and again"
PY
  done
done

# The same is asked for by skopeo, so that what is odd here is not odder than registries are.
if command -v skopeo >/dev/null && [ -z "${ODD:-}" ]; then
  failed=
  for name in $($PY "$LIB/odd_registry.py" list); do
    group=any
    case $name in ping*) group=user ;; esac
    rm -rf "$T/copy"
    timeout 60 skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$HOST/$group/$name:1" "oci:$T/copy:x" >/dev/null 2>>"$T/skopeo.log" || failed="$failed $name"
  done
  same "what skopeo cannot copy" "$(tr ' ' '\n' <<<"$skopeo_fails" | sort | xargs)" "$(tr ' ' '\n' <<<"$failed" | sort | xargs)"
fi
echo "behaviours: $number"
