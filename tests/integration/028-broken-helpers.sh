#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A credential helper that is missing, fails, hangs or prints nonsense, and a file that cannot be read, cost what is
# public a warning; the refusal of what is not has both causes. A login without a session is found.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need htpasswd
image plain
start_registry private htpasswd
push "$T/images/plain" app/plain:1 --user 'tester:se cret:1'
private=$REGISTRY/app/plain:1
start_registry public
push "$T/images/plain" app/plain:1
public=$REGISTRY/app/plain:1
mkdir "$T/bin"
export PATH=$T/bin:$PATH
helper() { printf '#!/bin/sh\nread -r server\n%s\n' "$2" >"$T/bin/docker-credential-$1" && chmod +x "$T/bin/docker-credential-$1"; }
helper fails 'echo "the keyring is locked"; exit 3'
helper prints 'echo "<html>no JSON of mine"'
helper hangs 'exec sleep 1000'
helper floods 'exec cat /dev/zero'
helper dies 'kill -9 $$'

# troubled REGEX CONFIG: the docker configuration does not keep from what is public, and is named.
troubled() {
  printf '%s' "$2" >"$DOCKER_CONFIG/config.json"
  ifs pull -q --pull always "$public" >"$T/out" 2>"$T/err" || fail "$2: $(cat "$T/err")"
  same "$2: lines of warning" 1 "$(grep -c . "$T/err")"
  grep -qE "^imagefs: warning: .*$1" "$T/err" || fail "$2: $(cat "$T/err")"
  refuse 5 "anonymous users.*$1.*imagefs login" ifs pull -q --pull always "$private"
}
for what in credsStore credHelpers; do
  config() { [ $what = credsStore ] && printf '{"credsStore": "%s"}' "$1" || printf '{"credHelpers": {"%s": "%s", "%s": "%s"}}' "${public%%/*}" "$1" "${private%%/*}" "$1"; }
  troubled 'docker-credential-desktop: not found in PATH' "$(config desktop)"
  troubled 'docker-credential-fails: .*status 3 \(the keyring is locked\)' "$(config fails)"
  troubled 'docker-credential-prints: its answer is not a JSON object' "$(config prints)"
  troubled 'docker-credential-dies: .*signal 9' "$(config dies)"
  troubled 'docker-credential-floods' "$(config floods)"
  troubled 'not a valid name of a credential helper' "$(config ../x)"
done
troubled 'docker-credential-hangs: no answer within 10 seconds' '{"credsStore": "hangs"}'
troubled 'config.json is not a valid JSON object' '{"auths": '
troubled 'the auth member .*USER:PASSWORD' "{\"auths\": {\"${public%%/*}\": {\"auth\": \"?\"}, \"${private%%/*}\": {\"auth\": \"?\"}}}"
rm "$DOCKER_CONFIG/config.json" && mkdir "$DOCKER_CONFIG/config.json"
ifs pull -q --pull always "$public" >/dev/null 2>"$T/err" || fail "a directory for a file: $(cat "$T/err")"
rmdir "$DOCKER_CONFIG/config.json"

# The same file has what its helper does not give, and so has another one.
login=$(printf 'tester:se cret:1' | base64 -w0)
printf '{"credsStore": "desktop", "auths": {"%s": {"auth": "%s"}}}' "${private%%/*}" "$login" >"$DOCKER_CONFIG/config.json"
ifs pull -q --pull always "$private" >/dev/null 2>"$T/err"
[ ! -s "$T/err" ] || fail "a warning where nothing is missing: $(cat "$T/err")"

# podman's, where it puts it without XDG_RUNTIME_DIR.
echo '{}' >"$DOCKER_CONFIG/config.json"
mkdir -p "$T/tmp/podman-run-0/containers"
printf '{"auths": {"%s": {"auth": "%s"}}}' "${private%%/*}" "$login" >"$T/tmp/podman-run-0/containers/auth.json"
TMPDIR=$T/tmp ifs pull -q --pull always "$private" >/dev/null
chmod 777 "$T/tmp/podman-run-0/containers"
TMPDIR=$T/tmp refuse 5 'anonymous' ifs pull -q --pull always "$private"
if command -v podman >/dev/null; then
  env -u XDG_RUNTIME_DIR podman login --tls-verify=false -u tester -p 'se cret:1' "${private%%/*}" >/dev/null 2>"$T/podman.log" &&
    AT_END+=(log_out)
  log_out() { env -u XDG_RUNTIME_DIR podman logout "${private%%/*}" >/dev/null 2>&1; }
  (unset XDG_RUNTIME_DIR && ifs pull -q --pull always "$private" >/dev/null) || fail "what podman login wrote is not found"
fi
