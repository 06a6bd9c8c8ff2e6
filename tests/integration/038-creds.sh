#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --creds and --authfile: the credentials of one call come from there and from nowhere else, are shared with no other
# call, and are neither stored, nor logged, nor shown.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need htpasswd; need script
image plain
start_registry second htpasswd
second=$REGISTRY
start_registry registry htpasswd
push "$T/images/plain" private/plain:1 --user 'tester:se cret:1'
ref=$REGISTRY/private/plain:1
right='tester:se cret:1'
mkdir "$M/a"

# Every verb that asks a registry.
refuse 5 'anonymous' ifs pull -q "$ref"
ifs inspect --creds "$right" "$ref" | grep -q plain:1
refuse 5 'anonymous' ifs pull -q --pull always "$ref"
refuse 5 'refuses these credentials' ifs mount -q --pull always --creds tester:wrong "$ref" "$M/a"
nothing_left "$M"
ifs mount -q --pull always --creds "$right" "$ref" "$M/a" >/dev/null
grep -q root "$M/a/etc/passwd" || fail "no content"
ifs umount "$M/a"
ifs add -q --pull always --creds "$right" "$ref" >/dev/null
ifs drop "$ref" >/dev/null
ifs index -q --pull always --push --creds "$right" "$ref" >/dev/null
ifs export-store -q --pull always --creds "$right" "$T/shared" "$ref" >/dev/null
ifs doctor --json "$ref" --creds "$right" >"$T/doctor.json" || true
same "the doctor" "ok for $REGISTRY from --creds" \
  "$(field '" ".join(c["result"] + " " + c["found"] for c in j["checks"] if c["name"] == "credentials")' <"$T/doctor.json")"
same "its image" '["ok"]' "$(field '[c["result"] for c in j["checks"] if c["name"] == "image"]' <"$T/doctor.json")"

# A file: it alone counts, and it must be there.
auth() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$1" "$(printf '%s' "$2" | base64 -w0)"; }
auth "$REGISTRY/private" "$right" >"$T/auth.json"
(cd "$T" && ifs pull -q --pull always --authfile auth.json "$ref" >/dev/null)
ifs mount -q --pull always -o "authfile=$T/auth.json" "$ref" "$M/a" >/dev/null
ifs umount "$M/a"
refuse 4 'authfile: .*/none: no such file' ifs pull -q --authfile "$T/none" "$ref"
echo '{' >"$T/broken.json"
refuse 1 'authfile: .*not a valid JSON' ifs pull -q --pull always --authfile "$T/broken.json" "$ref"
echo '{}' >"$T/empty.json"
cp "$T/auth.json" "$DOCKER_CONFIG/config.json"
ifs pull -q --pull always "$ref" >/dev/null
refuse 5 'anonymous' ifs pull -q --pull always --authfile "$T/empty.json" "$ref"
refuse 5 'refuses these credentials' ifs pull -q --pull always --creds tester:wrong "$ref"
echo '{}' >"$DOCKER_CONFIG/config.json"

# Callers at the same time: each has the answer to its own.
ifs rm -f "$ref" >/dev/null
pull_as() {
  local status=0
  case $(($1 % 3)) in
    0) ifs pull -q --creds "$right" "$ref" >/dev/null || status=$? ;;
    1) ! ifs pull -q --creds tester:wrong "$ref" >/dev/null 2>"$T/err.$1" || status=100
       grep -q 'refuses these credentials' "$T/err.$1" || status=101 ;;
    2) ! ifs pull -q "$ref" >/dev/null 2>"$T/err.$1" || status=102
       grep -q anonymous "$T/err.$1" || status=103 ;;
  esac
  return $status
}
storm 12 pull_as

# One registry only.
refuse 1 "one registry.* both $REGISTRY and $second" ifs add -q --creds "$right" "$ref" "$second/private/plain:1"
! grep -q '"GET /v2' "$T/second.log" || fail "the second registry was asked"

# The password on the terminal, not shown; without one it is no guess.
refuse 1 'no terminal.*password-stdin' ifs pull -q --pull always --creds tester "$ref" </dev/null
mkfifo "$T/keys"
script -qec "'$IMAGEFS' --root '$ROOT' --run '$RUN' pull -q --pull always --creds tester '$ref'" /dev/null \
  <"$T/keys" >"$T/typed" 2>&1 &
TEST_PIDS+=($!)
exec {keys}>"$T/keys"
wait_for 20 "grep -q 'Password of tester at $REGISTRY: ' '$T/typed'"
echo 'se cret:1' >&"$keys"
wait $! || fail "$(cat "$T/typed")"
exec {keys}>&-
! grep -q 'se cret' "$T/typed" || fail "the password was shown"

ifs log-level debug >/dev/null
ifs pull -q --pull always --creds "$right" "$ref" >/dev/null
for secret in 'se cret:1' "$(printf '%s' "$right" | base64 -w0)"; do
  ! grep -rqF "$secret" "$ROOT" "$RUN" "$T/shared" 2>/dev/null || fail "a secret was stored or logged"
done
