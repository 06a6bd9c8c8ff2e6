#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A registry with basic authentication: credentials come from the caller's files, go to that host
# only, and are found in no file of the store and in no log.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need htpasswd
start_registry registry htpasswd
image plain
push "$T/images/plain" private/plain:1 --user 'tester:se cret:1'
ref=$REGISTRY/private/plain:1
mkdir "$M/a"

refuse 5 'credential|login|unauthori|401' ifs mount -q "$ref" "$M/a"
auth() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$1" "$(printf '%s' "$2" | base64 -w0)" >"$DOCKER_CONFIG/config.json"; }
auth "$REGISTRY" 'tester:wrong'
refuse 5 'credential|login|unauthori|401|password' ifs mount -q "$ref" "$M/a"
nothing_left "$M"
auth 127.0.0.1:1 'tester:se cret:1'
refuse 5 'credential|login|unauthori|401' ifs mount -q "$ref" "$M/a"

auth "$REGISTRY" 'tester:se cret:1'
ifs mount -q "$ref" "$M/a" >/dev/null
grep -q root "$M/a/etc/passwd" || fail "no content"
ifs umount "$M/a"

# containers' auth.json, with a key that names the repository.
echo '{}' >"$DOCKER_CONFIG/config.json"
printf '{"auths": {"%s/private": {"auth": "%s"}}}' "$REGISTRY" "$(printf 'tester:se cret:1' | base64 -w0)" >"$T/auth.json"
REGISTRY_AUTH_FILE=$T/auth.json ifs pull -q --pull always "$ref" >/dev/null

# A credential helper.
mkdir "$T/bin"
cat >"$T/bin/docker-credential-fake" <<SH
#!/bin/sh
read host
echo "\$1 \$host" >>$T/helper.calls
printf '{"ServerURL": "%s", "Username": "tester", "Secret": "se cret:1"}' "\$host"
SH
chmod +x "$T/bin/docker-credential-fake"
printf '{"credHelpers": {"%s": "fake"}}' "$REGISTRY" >"$DOCKER_CONFIG/config.json"
PATH=$T/bin:$PATH ifs pull -q --pull always "$ref" >/dev/null
grep -q "^get $REGISTRY" "$T/helper.calls" || fail "the helper was not asked"

# What is here needs its own authorisation too when it is asked for by name again.
echo '{}' >"$DOCKER_CONFIG/config.json"
refuse 5 'credential|login|unauthori|401' ifs pull -q --pull always "$ref"

encoded=$(printf 'tester:se cret:1' | base64 -w0)
for secret in 'se cret:1' "$encoded"; do
  ! grep -rqF "$secret" "$ROOT" "$RUN" 2>/dev/null || fail "a secret is in $(grep -rlF "$secret" "$ROOT" "$RUN")"
done
