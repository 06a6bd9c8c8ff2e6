#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `imagefs doctor` says what is wrong with a machine that has been made wrong in one way at a time, and with the registry
# of an image; it starts no daemon and leaves nothing.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need htpasswd
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  status=0
  IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
  exit $status
fi
# Files of this test in place of the machine's.
mkdir -p "$T/etc/containerd" "$T/etc/containers" "$ROOT"
for folder in containerd containers; do
  [ -d /etc/$folder ] || skip "no /etc/$folder"
  mount --bind "$T/etc/$folder" /etc/$folder
done

# doctor STATUS ARGUMENT...: leaves the report in $T/report.
doctor() {
  local want=$1 status=0
  shift
  ifs doctor --json "$@" >"$T/report" 2>"$T/err" || status=$?
  [ $status = "$want" ] || { cat "$T/report" "$T/err" >&2; fail "status $status instead of $want: doctor $*"; }
}
# says RESULT NAME REGEX: the report has such a row, and, unless it is "ok", it says what that means and what to do.
says() {
  $PY - "$T/report" "$@" <<'PY' || { cat "$T/report" >&2; fail "the report has no $1 of $2: $3"; }
import json, re, sys
path, result, name, regex = sys.argv[1:]
report = json.load(open(path))
for c in report["checks"]:
    assert set(c) == {"name", "result", "found", "meaning", "remedy"}, c
    assert (c["result"] == "ok") == (c["meaning"] == "") == (c["remedy"] == ""), c
assert report["problems"] == sum(c["result"] == "problem" for c in report["checks"])
assert report["warnings"] == sum(c["result"] == "warning" for c in report["checks"])
sys.exit(not any(c["result"] == result and c["name"] == name and re.search(regex, c["found"]) for c in report["checks"]))
PY
}
problems() { field '[c["name"] for c in j["checks"] if c["result"] == "problem"]' <"$T/report"; }

# A machine as it should be, without a daemon and with one.
cat >"$T/config.toml" <<TOML
[fill]
min_free = "0%"
[store]
reserve = "none"
TOML
export IMAGEFS_CONFIG=$T/config.toml
doctor 0
says ok configuration "$T/config.toml"
says ok daemon 'none runs'
says ok kernel Linux
says ok overlayfs mounted
says ok fuse opened
says ok space free
says ok containerd containerd
says ok mirrors 'each registry is asked itself'
same "problems" "[]" "$(problems)"
same "daemons" "" "$(daemons)"
same "what is left in the store" "" "$(ls -A "$ROOT")"
ifs doctor >"$T/text" || fail "the text has another status"
grep -qE '^ok +kernel +Linux' "$T/text" || fail "no row in the text"
grep -qE '^0 problems, ' <(tail -n 1 "$T/text") || fail "no sum in the text"
ifs images >/dev/null
doctor 0
says ok daemon "it runs with pid [0-9]+, version .*, for $ROOT and $RUN"
ifs stop
[ ! -e "$RUN/imagefs" ] || fail "something is left"

# A configuration that cannot be read.
printf '[fill]\ndedline = "1s"\n' >"$T/bad.toml"
doctor 1 --config "$T/bad.toml"
says problem configuration 'bad.toml:2: fill.dedline is not known'
refuse 7 'bad.toml:2: fill.dedline is not known' "$IMAGEFS" daemon --config "$T/bad.toml" --check-config
same "a configuration that is right" OK "$("$IMAGEFS" daemon --check-config)"
same "as JSON" "[\"$T/config.toml\", true]" "$("$IMAGEFS" daemon --check-config --json | field '[j["config"], j["ok"]]')"
same "daemons" "" "$(daemons)"

# A daemon that holds the store and does not answer.
ifs images >/dev/null
daemon=$(daemons)
kill -STOP "$daemon"
doctor 1
says problem daemon "pid $daemon"
kill -CONT "$daemon"
ifs stop

# Whoever listens for a daemon that does not run, as systemd does, is left alone.
mkdir -p "$RUN"
$PY -c 'import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
open(sys.argv[2] + ".ready", "w")
s.accept()
open(sys.argv[2], "w")' "$RUN/control.sock" "$T/connected" &
TEST_PIDS+=($!)
wait_for 10 "[ -e '$T/connected.ready' ]"
doctor 0
says ok daemon 'none runs'
slay $!
[ ! -e "$T/connected" ] || fail "the doctor calls a daemon that does not run"

# containerd calls another socket; then its file is broken.
printf 'version = 2\n[proxy_plugins.imagefs]\ntype = "snapshot"\naddress = "/run/other.sock"\n' >/etc/containerd/config.toml
doctor 1
says problem containerd 'has the address /run/other.sock, not '
cat >/etc/containerd/config.toml <<TOML
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "imagefs"
disable_snapshot_annotations = false
[proxy_plugins.imagefs]
type = "snapshot"
address = "$RUN/snapshotter.sock"
[proxy_plugins.imagefs.exports]
root = "$ROOT"
TOML
doctor 0
says ok containerd-cri 'snapshotter is imagefs'
echo 'version = ' >/etc/containerd/config.toml
doctor 1
says problem containerd 'config.toml:1'
rm /etc/containerd/config.toml

# podman, and a mirror's file that is no TOML.
echo '[storage' >/etc/containers/storage.conf
mkdir -p /etc/containerd/certs.d/registry.test
echo 'server = ' >/etc/containerd/certs.d/registry.test/hosts.toml
doctor 1
says problem podman 'storage.conf:1'
says problem mirrors 'registry.test/hosts.toml:1'
rm -r /etc/containers/storage.conf /etc/containerd/certs.d

# A store on a full disk, in memory.
mkdir "$T/small"
mount -t tmpfs -o size=8m tmpfs "$T/small"
dd if=/dev/zero of="$T/small/all" bs=1M status=none 2>/dev/null || true
status=0
"$IMAGEFS" --root "$T/small/root" --run "$RUN" doctor --json >"$T/report" || status=$?
same "status on a full disk" 1 $status
says problem space '0 B of 8.0 MiB are free'
says problem writing 'No space left'
says note store tmpfs

# A registry: an image that is there, one that is not, credentials that are wrong, and silence.
start_registry registry htpasswd
image plain
push "$T/images/plain" private/plain:1 --user 'tester:se cret:1'
ref=$REGISTRY/private/plain:1
auth() { printf '{"auths": {"%s": {"auth": "%s"}}}' "$1" "$(printf '%s' "$2" | base64 -w0)" >"$DOCKER_CONFIG/config.json"; }
auth "$REGISTRY" 'tester:se cret:1'
doctor 0 "$ref"
says ok credentials "from $DOCKER_CONFIG/config.json"
says ok endpoints "$REGISTRY"
says ok image "private/plain:1 is .*linux/.*layer"
says note index 'nobody has published'
! grep -qE 'se cret|dGVzdGVy' "$T/report" || fail "a secret is in the report"
doctor 1 "$REGISTRY/private/none:1"
says problem image 'none:1'
doctor 1 --platform linux/s390x "$ref"
says problem image s390x
auth "$REGISTRY" 'tester:wrong-secret'
doctor 1 "$ref"
says problem image "401|nauthor|credential|password"
! grep -q wrong-secret "$T/report" || fail "a secret is in the report"
echo '{' >"$DOCKER_CONFIG/config.json"
doctor 1 "$ref"
says warning credentials config.json
auth "$REGISTRY" 'tester:se cret:1'
ifs images >/dev/null
doctor 0 "$ref"
says ok "image, by the daemon" 'private/plain:1 to [0-9a-f]+'
ifs stop
doctor 0 "oci:$T/images/plain"
says ok image "oci:.*plain"
doctor 1 "oci:$T/images/none"
says problem image none

# Somebody who takes connections and says nothing: it ends by itself.
$PY -c 'import socket, sys, time
s = socket.create_server(("127.0.0.1", 0))
open(sys.argv[1] + ".new", "w").write(str(s.getsockname()[1]))
import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(1000)' "$T/silent" &
TEST_PIDS+=($!)
wait_for 10 "[ -s '$T/silent' ]"
doctor 1 "127.0.0.1:$(cat "$T/silent")/a/b:1"
says problem image 'no answer|timed out|sent nothing|silent'

# Without /dev/fuse.
hide_fuse
doctor 1
says problem fuse '/dev/fuse does not exist'
nothing_left "$M"
