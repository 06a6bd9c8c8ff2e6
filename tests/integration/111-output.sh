#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What every verb prints as JSON is what docs/json-schema.json and docs/json.md say; a failure of each kind has its exit
# status, its code, and a remedy apart from the cause; errors of the standard output count, and closed descriptors do no
# harm.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
schema() { $PY "$LIB/json_schema.py" "$@"; }
schema documents || fail "the schema, json.md and the manual page differ"
start_registry registry
image plain
big_image big one=2 two=1
push "$T/images/plain" test/plain:1
ref=oci:$T/images/plain pushed=$REGISTRY/test/plain:1
mkdir "$M/a" "$M/b" "$M/c"

json() {  # json DEFINITION STATUS ARGUMENT...: prints the file with the output
  local name=$1 want=$2 status=0
  shift 2
  ifs --json "$@" >"$T/json" 2>"$T/err" || status=$?
  same "status of $*: $(cat "$T/err")" "$want" $status
  schema check "$name" "$T/json" || { cat "$T/json"; fail "the output of $* is not as documented"; }
}
# fails STATUS CODE CAUSE REMEDY ARGUMENT...: fails in that way; CAUSE and REMEDY are regular expressions.
fails() {
  local want=$1 code=$2 cause=$3 remedy=$4 status=0
  shift 4
  ifs --json "$@" >"$T/json" 2>"$T/err" || status=$?
  same "status of $*: $(cat "$T/err")" "$want" $status
  schema failure "$T/json" "$want" "$T/err" || { cat "$T/json"; fail "the failure of $* is not as documented"; }
  same "code of $*" "$code" "$(field 'j["error"]["code"]' <"$T/json")"
  field 'j["error"]["cause"]' <"$T/json" | grep -qE -- "$cause" || { cat "$T/json"; fail "the cause of $* is not /$cause/"; }
  field 'j["error"]["remedy"]' <"$T/json" | grep -qxE -- "$remedy" || { cat "$T/json"; fail "the remedy of $* is not /$remedy/"; }
}

# ---- without a daemon
same "the version" '["version", "schema"]' "$("$IMAGEFS" --version --json | field 'list(j)')"
"$IMAGEFS" --version --json >"$T/json" && schema check version "$T/json"
fails 7 no_daemon 'no daemon is running for' '' status
fails 7 no_daemon 'no daemon is running for' '' log-level
fails 2 usage 'DIR is required' 'try: imagefs help mount' mount -q "$ref"
fails 2 usage '"mout" is not a verb$' 'did you mean mount.; try: imagefs help' mout
fails 2 usage 'no verb' 'try: imagefs help'
fails 4 not_found '^--config .*/none: No such file' '.*' --config "$T/none" images
json stop 0 stop
printf '[fill]\ndedline = 1\n' >"$T/bad.toml"
fails 7 no_daemon 'bad.toml:2: fill.dedline is not known' '' --config "$T/bad.toml" images
fails 7 no_daemon 'bad.toml:2: fill.dedline is not known' '' --check-config "$T/bad.toml"
printf '[fill]\n' >"$T/good.toml"
json check-config 0 --check-config "$T/good.toml"
json doctor 0 doctor

# ---- each verb
json mount 0 mount -q "$ref" "$M/a"
json ls 0 ls
json images 0 images
json status 0 status
json status-mount 0 status "$M/a"
json inspect 0 inspect "$ref"
json inspect 0 inspect "$pushed"
json log-level 0 log-level
json ls-files 0 ls-files "$pushed"
json cp 0 cp "$pushed:/." "$M/c"
json diff 0 diff "$pushed" "$ref"
json diff 1 diff --exit-code "$pushed" "oci:$T/images/big"
fails 4 not_found 'no such file' '.*' ls-files "$pushed" /none
json df 0 df
json prune 0 prune
json check 0 check
fails 6 busy 'is mounted there already' 'unmount it first \(imagefs umount .*\)' mount -q "oci:$T/images/big" "$M/a"
fails 6 busy 'already running .* with --log-level info, not with error' 'change it .*, stop it .*' --log-level error images
json umount 0 umount "$M/a"
json pull 0 pull -q "$pushed"
json index 0 index -q --push "$pushed"
json export-store 0 export-store -q "$T/shared" "$pushed"
json import 0 import -q "$T/shared"
printf '{"version":1,"layers":%s,"parts":[[0,0,1]]}' \
  "$(ifs status --json | field '[{k: l[k] for k in ("diff_id", "data_bytes")} for l in j["layers"]][:1]')" >"$T/profile"
json profile-import 0 profile import "$pushed" "$T/profile"
json profile 0 profile show "$pushed"
json profile 0 profile export "$pushed"
json profile-import 0 profile clear "$pushed"
json add 0 add -q "$pushed"
json add 0 add --list
export REGISTRY_AUTH_FILE=$T/auth.json
json login 0 login -u me --password-stdin "$REGISTRY" < <(echo password)
json login-get 0 login --get-login "$REGISTRY"
json logout 0 logout "$REGISTRY"
fails 4 not_found 'no login for' '.*' logout "$REGISTRY"
unset REGISTRY_AUTH_FILE
json rm 0 drop "$pushed"
json rm 0 evict "$pushed"
json rm 0 rm "$ref"

# ---- a failure of each kind, each with the remedy apart
fails 4 not_found '^/nonexistent: No such file' '' mount -q oci:/nonexistent "$M/a"
fails 4 not_found 'no/such:1 in the store' '`imagefs images` lists those that are' rm no/such:1
fails 4 not_found 'no imagefs mount' 'imagefs ls lists them' status "$M/b"
fails 4 not_found 'test/plain:none does not exist at' 'check the name and the tag' pull -q "$REGISTRY/test/plain:none"
fails 4 not_found "$M/none does not exist|$M/none: " '.*' mount -q "$ref" "$M/none"
fails 1 other '^id map .*malformed' 'write IMAGE:HOST:COUNT.*' mount -q --map-uids 0:1 "$ref" "$M/a"
fails 8 network '127.0.0.1:1.*refused' 'check that the registry runs.*' pull -q 127.0.0.1:1/a/b:1
start_proxy proxy
rules '[{"path": "/v2/", "status": 403, "body": "{\"errors\": [{\"message\": \"no; try \\\"again\\\"; use x\"}]}"}]'
fails 5 denied 'does not give it to anonymous users .*no; try .*; use x.*\)$' 'run .imagefs login .*, or check the name' pull -q "$PROXY/test/big:1"
rules '[{"path": "/v2/", "status": 429, "headers": {"Retry-After": "0"}}]'
fails 8 network 'too many requests' 'wait.*' pull -q "$PROXY/test/big:1"
rules '[{"path": "/v2/", "status": 500}]'
fails 8 network 'HTTP status 500' 'check the registry' pull -q "$PROXY/test/big:1"
rules "[{\"path\": \"/v2/\", \"hold\": \"$T/go\"}]"
fails 9 timeout 'not done after 1 s \(--timeout\)' '.*' pull -q --timeout 1 "$PROXY/test/big:1"
fails 9 timeout 'not done after 1 s \(--timeout\)' '.*' --timeout 1 inspect "$PROXY/test/big:1"
stopped=$(ifs status --json | field 'j["pid"]')
kill -STOP "$stopped"
fails 9 timeout 'not done after 1 s \(--timeout\)' '.*' ls --timeout 1
fails 9 timeout 'not done after 1 s \(--timeout\)' '.*' umount --timeout 1 "$M/a"
kill -CONT "$stopped"
fails 2 usage 'not for the daemon' '.*' --timeout 1 daemon
setsid "$IMAGEFS" --root "$ROOT" --run "$RUN" --json pull -q "$PROXY/test/big:1" >"$T/json" 2>"$T/err" & pid=$!
wait_for 20 "[ \$(flights 'f[\"active\"]') -ge 1 ]" || fail "nothing is fetched"
kill -INT $pid
status=0
wait $pid || status=$?
same "status when interrupted" 130 $status
schema failure "$T/json" 130 "$T/err" || fail "the failure when interrupted"
touch "$T/go"
rules '[]'
push "$T/images/big" test/big:1
ifs pin "$pushed"
fails 6 busy 'is pinned' 'unpin it first, or remove it with --force' rm "$pushed"
ifs unpin "$pushed"
blob=$(find "$T/registry/data" -path '*/blobs/sha256/*/data' -size +1M | head -1)
$PY "$LIB/damage.py" flip "$blob" 50 1
fails 3 damaged 'sha256:' '.*' pull -q "$REGISTRY/test/big:1"
ifs stop
mkdir "$T/small"
mount -t tmpfs -o size=24m tmpfs "$T/small"
big_image huge three=30
ROOT=$T/small/root RUN=$T/small/run fails 10 no_space 'space' '.*' pull -q "oci:$T/images/huge"
"$IMAGEFS" --root "$T/small/root" --run "$T/small/run" stop

# ---- several operands
ifs pull -q "$pushed" >/dev/null
status=0
ifs --json add -q "$pushed" "$REGISTRY/test/none:1" >"$T/json" 2>"$T/err" || status=$?
same "status" 4 $status
schema check add "$T/json" || fail "add that fails in part"
same "what was added" "$pushed not_found 4" "$(field '" ".join([j["images"][0]["name"], j["error"]["code"], str(j["error"]["exit"])])' <"$T/json")"
status=0
ifs --json export-store -q "$T/shared" "$pushed" "$REGISTRY/test/none:1" >"$T/json" 2>"$T/err" || status=$?
same "status" 4 $status
schema check export-store "$T/json" || fail "export-store that fails in part"
same "what was exported" '[1, "not_found"]' "$(field '[len(j["images"]), j["error"]["code"]]' <"$T/json")"
ifs drop "$pushed" >/dev/null
ifs mount -q "$ref" "$M/a" >/dev/null
ifs mount -q "$ref" "$M/b" >/dev/null
ifs mount -q "$ref" "$M/c" >/dev/null
exec {open_a}<"$M/a/etc/passwd" {open_b}<"$M/b/etc/passwd"
json umount 6 umount "$M/a" "$M/c"
same "of two, one is busy" '[["'"$M/c"'"], ["'"$M/a"'", "busy", 6]]' \
  "$(field '[j["unmounted"], [j["failures"][0]["directory"], j["failures"][0]["error"]["code"], j["failures"][0]["error"]["exit"]]]' <"$T/json")"
json umount 6 umount "$M/a" "$M/b"
json umount 4 umount "$M/c"
json umount 1 umount "$M/a" "$M/c"   # of different kinds
exec {open_a}<&- {open_b}<&-
json umount 0 umount --all

# The standard output.
for arguments in ls images status df check doctor log-level "inspect $ref" "prune -n" "add --list" "pull -q $ref" --help "help mount" help \
  --version "rm -f no/such:1" "status --json" "ls --json" "--version --json" "stop --json" "rm --json no/such:1" "mout --json"; do
  status=0
  ifs images >/dev/null
  ifs $arguments >/dev/full 2>"$T/err" || status=$?
  # A failure that could be told keeps its status.
  case $arguments in "rm --json"*) want=4 ;; mout*) want=2 ;; *) want=1 ;; esac
  same "status of $arguments on a full disk" $want $status
  grep -qx "imagefs: standard output: No space left on device" "$T/err" || fail "$arguments says: $(cat "$T/err")"
  status=0
  ifs $arguments >&- 2>"$T/err" || status=$?
  same "status of $arguments without an output" $want $status
done
ifs mount -q "$ref" "$M/a" >/dev/full 2>/dev/null && fail "mount says 0 though its line is lost"
grep -q root "$M/a/etc/passwd" || fail "not mounted"
ifs umount "$M/a" >&- 2>&- <&- || fail "umount without descriptors"
ifs stop
ifs images <&- 2>&- | grep -q DIGEST || fail "no output where the others are closed"
(trap '' PIPE; status=0; "$IMAGEFS" --root "$ROOT" --run "$RUN" images 2>"$T/err" || status=$?; echo $status >"$T/status") | true
wait_for 10 "[ -s '$T/status' ]"
same "status where nobody reads" 1 "$(cat "$T/status")"
same "what it says then" "" "$(cat "$T/err")"
ifs stop
