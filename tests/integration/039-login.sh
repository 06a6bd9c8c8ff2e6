#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# imagefs login and logout: checked at the registry, stored where podman and skopeo look, ended by either tool.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need htpasswd; need script
unset DOCKER_CONFIG
export XDG_RUNTIME_DIR=$T/session HOME=$T/home
mkdir -m 700 "$XDG_RUNTIME_DIR" "$HOME" "$HOME/.docker"
DOCKERS=$HOME/.docker/config.json
FILE=$XDG_RUNTIME_DIR/containers/auth.json
image plain
start_registry open
open=$REGISTRY
start_registry registry htpasswd
push "$T/images/plain" private/plain:1 --user 'tester:se cret:1'
host=$REGISTRY ref=$REGISTRY/private/plain:1
login() { printf '%s\n' 'se cret:1' | ifs login -u tester --password-stdin "$@"; }
wrong() { echo wrong | ifs login -u tester --password-stdin "$@"; }

# It is checked first, and starts no daemon.
refuse 5 "$host refuses these credentials.*check user name and password" wrong "$host"
[ ! -e "$FILE" ] || fail "a wrong password was stored"
refuse 1 'password is empty' ifs login -u tester --password-stdin "$host" < <(echo)
refuse 4 'standard input is empty' ifs login -u tester --password-stdin "$host" </dev/null
refuse 1 'no terminal to ask for a password.*--password-stdin' ifs login -u tester "$host" </dev/null
refuse 1 'no terminal to ask for a user name.*--username' ifs login "$host" </dev/null
refuse 1 'is not a registry' ifs login -u tester --password-stdin nohost < <(echo x)
refuse 1 'is a URL' ifs login -u tester --password-stdin "https://$host" < <(echo x)
refuse 8 '127.0.0.1:1.*refused' ifs login -u tester --password-stdin 127.0.0.1:1 < <(echo x)
refuse 4 "no login for $host" ifs login --get-login "$host"
same "what it says" "logged in to $host as tester ($FILE)" "$(login "$host" 2>"$T/err")"
[ ! -s "$T/err" ] || fail "$(cat "$T/err")"
same "the mode" 600 "$(stat -c %a "$FILE")"
[ -z "$(daemons)" ] || fail "a daemon was started"
same "the user" tester "$(ifs login --get-login "$host")"
same "as JSON" "[\"$host\", \"tester\", \"$FILE\"]" "$(ifs login --json --get-login "$host" | field 'list(j.values())')"
ifs pull -q "$ref" >/dev/null
refuse 5 "refuses these credentials" wrong "$host"
same "it stays" tester "$(ifs login --get-login "$host")"

# A password on the command line: with a warning.
ifs login -u tester -p 'se cret:1' "$host" >/dev/null 2>"$T/err"
grep -q '^imagefs: warning: .*--password-stdin' "$T/err" || fail "no warning: $(cat "$T/err")"

# On a terminal.
ifs logout "$host" >/dev/null
mkfifo "$T/keys"
script -qec "'$IMAGEFS' --root '$ROOT' --run '$RUN' login '$host'" /dev/null <"$T/keys" >"$T/typed" 2>&1 &
typist=$!
TEST_PIDS+=($typist)
exec {keys}>"$T/keys"
wait_for 20 "grep -q 'User name at $host: ' '$T/typed'"
echo tester >&"$keys"
wait_for 20 "grep -q 'Password of tester at $host: ' '$T/typed'"
echo 'se cret:1' >&"$keys"
wait $typist || fail "$(cat "$T/typed")"
exec {keys}>&-
! grep -q 'se cret' "$T/typed" || fail "the password was shown"
same "the user" tester "$(ifs login --get-login "$host")"

# A registry that asks for nothing cannot check.
same "status and place" "False $FILE" \
  "$(login --json "$open" 2>"$T/err" | field '" ".join([str(j["checked"]), j["place"]])')"
grep -q "warning: $open asked for no credentials" "$T/err" || fail "no warning: $(cat "$T/err")"

# Namespaces, other files, what others wrote, and all.
login "$host/private" >/dev/null
same "logins" "[\"$host\", \"$open\", \"$host/private\"]" "$(field 'list(j["auths"])' <"$FILE")"
echo '{"unknown": [1]}' >"$T/own.json"
login --authfile "$T/own.json" "$host" >/dev/null
same "what else is in it" '[1]' "$(field 'j["unknown"]' <"$T/own.json")"
ifs pull -q --pull always --authfile "$T/own.json" "$ref" >/dev/null
same "logout of that file" "logged out of $host ($T/own.json)" "$(ifs logout --authfile "$T/own.json" "$host")"
refuse 4 "no login for $host in $T/own.json" ifs logout --authfile "$T/own.json" "$host"
same "logout of all" "[\"$host\", \"$open\", \"$host/private\"]" "$(ifs logout --json --all | field 'j["registries"]')"
same "then" '{}' "$(field 'j["auths"]' <"$FILE")"
refuse 4 "no login for $host" ifs logout "$host"
printf '{"auths": {"%s": {"auth": "%s"}}}' "$host" "$(printf 'tester:se cret:1' | base64 -w0)" >"$DOCKERS"
refuse 4 "no login for $host in $FILE, but there are credentials in $DOCKERS" ifs logout "$host"
login "$host" >/dev/null
ifs logout "$host" >/dev/null 2>"$T/err"
grep -q "warning: there are other credentials for $host.*$DOCKERS" "$T/err" || fail "$(cat "$T/err")"
echo '{}' >"$DOCKERS"

# As podman has it: the configuration of docker only where the caller names it.
same "the file then" "logged in to $host as tester ($T/docker/config.json)" "$(DOCKER_CONFIG=$T/docker login "$host")"
DOCKER_CONFIG=$T/docker ifs logout "$host" >/dev/null

# By TLS, with the authority that is given.
start_registry secure htpasswd tls
secure=localhost:${REGISTRY##*:}
refuse 1 "$secure.*certificate" login "$secure"
login --ca-file "$T/secure/ca.pem" "$secure" >/dev/null
ifs logout "$secure" >/dev/null
login --tls-skip-verify "$secure" >/dev/null
ifs logout "$secure" >/dev/null

# Usage.
for words in "login" "login $host $host" "logout" "logout --all $host" "login --get-login -u x $host" \
  "login --password-stdin $host" "login -u x -p y --password-stdin $host" "login -u a:b $host"; do
  refuse 2 . ifs $words
done

# Nobody else's directory in /tmp.
(
  unset XDG_RUNTIME_DIR
  export TMPDIR=$T/tmp
  mkdir -m 1777 "$TMPDIR"
  as_user() { setpriv --reuid 1234 --regid 1234 --clear-groups env HOME=/nonexistent "$@"; }
  mkdir -m 777 "$T/u" && chown 1234 "$T/u"
  user() { as_user timeout 60 "$IMAGEFS" --root "$T/u/root" --run "$T/u/run" "$@"; }
  mkdir -m 777 "$TMPDIR/podman-run-1234"
  refuse 1 'podman-run-1234: it is not a directory of this user' \
    user login -u tester --password-stdin "$host" < <(echo 'se cret:1')
  rmdir "$TMPDIR/podman-run-1234"
  echo 'se cret:1' | user login -u tester --password-stdin "$host" >/dev/null
  same "the file of a user" "1234 600" "$(stat -c '%u %a' "$TMPDIR/podman-run-1234/containers/auth.json")"
  same "its login" tester "$(user login --get-login "$host")"
)

# podman and skopeo have what is stored here, and the other way round.
if command -v podman >/dev/null && command -v skopeo >/dev/null; then
  login "$host" >/dev/null
  skopeo inspect --tls-verify=false "docker://$ref" >/dev/null || fail "skopeo does not find the login"
  same "podman's user" tester "$(own_podman login --get-login "$host")"
  own_podman logout "$host" >/dev/null
  refuse 4 "no login for $host" ifs login --get-login "$host"
  own_podman login --tls-verify=false -u tester -p 'se cret:1' "$host" >/dev/null 2>"$T/podman.log" || fail "podman login"
  same "what podman stored" tester "$(ifs login --get-login "$host")"
  ifs logout "$host" >/dev/null
  ! own_podman login --get-login "$host" >/dev/null 2>&1 || fail "podman is still logged in"
fi
