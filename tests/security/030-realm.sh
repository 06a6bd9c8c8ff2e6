#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A registry's challenge names the token service, and is a claim: nothing that only this machine can reach is asked
# for it, no credential and no token goes to anybody but whom it is meant for, and the user is told in one line.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
mkdir -p "$T/evil" "$M/a"
$PY "$LIB/auth_registry.py" "$T/evil" 2>"$T/evil.log" &
TEST_PIDS+=($!)
wait_for 20 "[ -e '$T/evil/port' ]" || fail "the registry does not start"
read -r port other <"$T/evil/port" || true
HOST=127.0.0.1:$port

auth() { printf '{"auths": {"%s": %s}}' "$HOST" "$1" >"$DOCKER_CONFIG/config.json"; }
seen() { $PY - "$T/evil/log" "$1" <<'PY'
import json, sys
print(sum(bool(eval(sys.argv[2])) for r in map(json.loads, open(sys.argv[1]))))
PY
}
BASIC="{\"auth\": \"$(printf 'alice:p4ssW0rd-of-alice' | base64 -w0)\"}"
IDENTITY='{"identitytoken": "1dentity-t0ken-of-alice"}'

# Wherever a challenge leads, with and without credentials, anonymously and not.
for who in '{}' "$BASIC" "$IDENTITY"; do
  auth "$who"
  for kind in port name metadata user file relative quoted; do
    refuse 1 "$HOST|URL" ifs pull -q "$HOST/$kind:1"
    refuse 1 "$HOST|URL" ifs mount -q "$HOST/$kind:1" "$M/a"
    ! grep -q 'INTERNAL' "$T/err" || fail "$kind: the message tells what was answered"
  done
done
auth '{}'
refuse 1 "$HOST sends its users to get a token from http://127.0.0.1:$other/.*have the registry name an https" \
  ifs pull -q "$HOST/port:1"
same "requests to the other service" 0 "$(seen 'r["server"] == "other"')"
same "requests for a token" 0 "$(seen '"token" in r["path"]')"
same "headers that carry something" 0 "$(seen 'r["authorization"]')"

# A token service that sends on, refuses or answers with something else.
auth "$BASIC"
for kind in moved refusing text; do
  refuse $([ $kind = refusing ] && echo 5 || echo 1) "token service" ifs pull -q "$HOST/$kind:1"
  ! grep -q 'INTERNAL' "$T/err" || fail "$kind: the message tells what was answered"
done
same "requests to the other service" 0 "$(seen 'r["server"] == "other"')"
same "tokens that came from nowhere" 0 "$(seen '"INTERNAL" in (r["authorization"] or "")')"

# What works: the registry's own token service, and storage elsewhere, which sees no credential.
for kind in basic own; do
  ifs pull -q "$HOST/$kind:1" >/dev/null
done
auth "$IDENTITY"
ifs pull -q --pull always "$HOST/identity:1" >/dev/null
ifs rm "$HOST/basic:1" "$HOST/own:1" "$HOST/identity:1" >/dev/null
auth "$BASIC"
refuse 3 . ifs pull -q "$HOST/led:1"
[ "$(seen 'r["server"] == "other"')" -gt 0 ] || fail "the storage was not asked"
same "headers that the storage saw" 0 "$(seen 'r["server"] == "other" and r["authorization"]')"

# Nothing of it is in a file of the daemon's.
for secret in INTERNAL p4ssW0rd 1dentity b3arer "$(printf 'alice:p4ssW0rd-of-alice' | base64 -w0)"; do
  ! grep -rqF "$secret" "$ROOT" "$RUN" || fail "$secret is in $(grep -rlF "$secret" "$ROOT" "$RUN")"
done
ifs stop
