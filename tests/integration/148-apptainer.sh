#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# docs/hpc.md: Apptainer runs programs of a mounted image as of a sandbox directory, without root, of a user's mount and of
# root's. APPTAINER names the program; it is not in Debian, and nothing here builds it.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root
APPTAINER=${APPTAINER:-$(command -v apptainer || command -v singularity || true)}
[ -n "$APPTAINER" ] || skip "apptainer is not installed; APPTAINER=program takes one that is here"
"$APPTAINER" --version || skip "$APPTAINER does not run"
home='' uid=''
need_user
mkdir "$home/scratch"
echo scratch >"$home/scratch/file"
chown -R "$uid:$uid" "$home"
$PY - "$LIB" "$T/images/app" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "ls", "id", "env"])
for directory in ("proc", "dev", "sys", "tmp", "etc", "home", "mnt", "root", "var", "var/tmp"):
    tools.dir(directory)
tools.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n").file("etc/group", b"root:x:0:\n").file("etc/hosts").file("etc/resolv.conf")
tools.file("etc/localtime").file("word", b"one\n").dir("private", mode=0o700).file("private/key", b"of root\n", mode=0o600)
simple_image(sys.argv[2], [tools])
P
chmod -R go+rX "$T/images"
ref=oci:$T/images/app
user() { as_user timeout -k 5 60 "$IMAGEFS" --root "$home/store" --run "$home/run" "$@"; }
# What the image says, and not this machine's files.
contained() { as_user timeout -k 5 60 "$APPTAINER" exec --userns --no-home "$@"; }
user mount -q "$ref" "$home/m" >/dev/null
ifs mount -q "$ref" "$M" >/dev/null
for directory in "$home/m" "$M"; do
  same "exec of $directory" "one $uid" "$(contained "$directory" /bin/sh -c 'cat /word; id -u' | xargs)"
  same "bound, of $directory" scratch "$(contained --bind "$home/scratch:/mnt" "$directory" /bin/cat /mnt/file)"
  ! contained "$directory" /bin/sh -c 'echo x >/word' 2>/dev/null || fail "written, of $directory"
  # Apptainer covers the directory by an overlay, which goes by the image's modes.
  ! contained "$directory" /bin/cat /private/key 2>"$T/err" || fail "root's file, of $directory: docs/hpc.md says otherwise"
  grep -q 'Permission denied' "$T/err" || fail "$(cat "$T/err")"
done
user umount "$home/m"; user stop
ifs umount "$M"; ifs stop
nothing_left "$home" "$M"
