#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `bundle`: runc and crun run what the image says, as root over a writable tree and without root; the configuration has
# what OCI's conversion demands; umount ends it.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need runc; need setpriv
open_fuse
home='' uid=''
user_home "$T/user"
$PY - "$LIB" "$T/images/app" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
t = host_tar(["sh", "cat", "id", "touch"])
for name in ("proc", "sys", "dev", "etc"): t.dir(name)
t.dir("tmp", mode=0o1777).file("etc/passwd", b"www:x:33:34::/tmp:/bin/sh\n").file("etc/group", b"web:x:34:\nmore:x:50:www\n")
t.file("etc/resolv.conf").file("etc/hosts").dir("srv")
simple_image(sys.argv[2], [t], config_extra={"config": {
    "Env": ["PATH=/bin", "A=1"], "Entrypoint": ["sh", "-c"], "Cmd": ["echo \"$A $PWD $(id -u) $(id -G)\""], "WorkingDir": "/srv",
    "User": "www", "StopSignal": "SIGQUIT", "Labels": {"org.example": "label"}}})
P
chmod -R go+rX "$T/images"
ref=oci:$T/images/app
runtime() { "$1" --root "$T/state-$1" run --bundle "$2" "test-$$-$1"; }

ifs bundle -q "$ref" "$T/b" >"$T/out"
grep -q "$T/b/rootfs" "$T/out" || fail "$(cat "$T/out")"
config() { field "$1" <"$T/b/config.json"; }
same "command" '["sh", "-c", "echo \"$A $PWD $(id -u) $(id -G)\""]' "$(config 'j["process"]["args"]')"
same "label" label "$(config 'j["annotations"]["org.example"]')"
same "signal" SIGQUIT "$(config 'j["annotations"]["org.opencontainers.image.stopSignal"]')"
same "writable" false "$(config 'j["root"]["readonly"]')"
for program in runc crun; do
  command -v $program >/dev/null || { echo "NOT TESTED: $program is not installed" >&2; continue; }
  same "by $program" "1 /srv 33 34 50" "$(runtime $program "$T/b" </dev/null)"
done
touch "$T/b/rootfs/new" || fail "not writable"
refuse 6 'config.json exists; remove it' ifs bundle -q "$ref" "$T/b"
ifs umount "$T/b/rootfs"
same "nothing is mounted" "" "$(ls "$T/b/rootfs")"

ifs bundle -q --read-only --env A=2 --user 7 --workdir /tmp "$ref" "$T/c" 'echo "$A $PWD $(id -u)"; touch /x' >/dev/null
same "read-only, with options" "2 /tmp 7" "$(runtime runc "$T/c" </dev/null 2>"$T/err" || true)"
grep -q 'Read-only' "$T/err" || fail "$(cat "$T/err")"
same "its user in JSON" 7 "$(field 'j["process"]["user"]["uid"]' <"$T/c/config.json")"
ifs umount "$T/c/rootfs"
same "what fails leaves nothing" 4 "$(ifs bundle -q --user nonesuch "$ref" "$T/d" >/dev/null 2>&1 || echo $?)"
same "no mount" "" "$(mounts_below "$T/d")"
[ ! -e "$T/d/config.json" ] || fail "a configuration is left"

# Without root.
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
user bundle -q --user 0 "$ref" "$home/b" >/dev/null
same "a namespace of users" "$uid" "$(field 'j["linux"]["uidMappings"][0]["hostID"]' <"$home/b/config.json")"
as_user mkdir "$home/state"
same "without root" "1 /srv 0" "$(as_user runc --root "$home/state" run --bundle "$home/b" "test-$$-user" </dev/null | cut -d' ' -f1-3)"
user umount "$home/b/rootfs"
user stop
ifs stop
nothing_left "$T/b" "$T/c" "$home"
