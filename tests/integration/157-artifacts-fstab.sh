#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Artifacts in fstab: a model and the files of an ORAS artifact come with `mount -a`, with the options of their entries, once, and
# again after a restart of the daemon without the registry; writable, noauto and nofail entries; a bad artifact fails its entry only.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
# mount(8) looks for helpers in /sbin only: a namespace of its own gets one there.
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  status=0
  IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
  exit $status
fi
install_mount_helper

start_registry registry
$PY - "$LIB" "$T/images" "$T/expected" <<'PY'
import random, sys
sys.path.insert(0, sys.argv[1])
from artifacts import *
images, expected = sys.argv[2:]
a = Artifact(images + "/model", expected + "/model", "application/vnd.cncf.model.manifest.v1+json")
a.model_file("model.safetensors", random.Random(157).randbytes(3 << 20), mode=0o640, uid=1000, gid=100, mtime=(1700000000, 123456789))
a.model_tar({"scripts/run.py": b"print(1)\n"}, "code", ".tar+gzip")
a.write(config_type="application/vnd.cncf.model.config.v1+json", config={"descriptor": {"name": "m"}})
a = Artifact(images + "/files", expected + "/files", "application/vnd.example")
a.title("hello.txt", b"hello\n", "text/plain")
a.title("deep/er/data.bin", b"d" * 100000, "application/octet-stream")
a.write()
a = Artifact(images + "/bad", None, "application/vnd.example")
a.add(b"x", "text/plain", {TITLE: "../outside"})
a.write()
PY
for name in model files bad; do push "$T/images/$name" "artifacts/$name:1"; done
mkdir "$M"/{model,files,rw,later,bad,none}
here=root=$ROOT,run=$RUN
fstab() { timeout 120 mount -T "$T/fstab" "$@"; }
alike() { $PY "$LIB/tree.py" compare "$T/expected/$1" "$2" --loose-root || fail "$2 is another tree than $1"; }

for mode in $(modes); do
  cat >"$T/fstab" <<FSTAB
$REGISTRY/artifacts/model:1 $M/model imagefs ro,nofail,_netdev,$here,mode=$mode,x-systemd.requires=imagefs.socket 0 0
$REGISTRY/artifacts/files:1 $M/files imagefs defaults,noexec,$here,mode=$mode 0 0
$REGISTRY/artifacts/files:1 $M/rw imagefs rw,writable,upper=$T/upper.$mode,$here 0 0
oci:$T/images/model $M/later imagefs noauto,$here,mode=$mode 0 0
FSTAB
  fstab -a
  fstab -a
  same "$mode: mounted" "$M/files $M/model $M/rw" "$(mounts_below "$M" | sort | tr '\n' ' ' | sed 's/ $//')"
  alike model "$M/model"
  alike files "$M/files"
  same "$mode: flags" ro,nosuid,nodev,noexec,relatime "$(findmnt -n -o VFS-OPTIONS "$M/files")"
  same "$mode: kind" "application/vnd.cncf.model.manifest.v1+json application/vnd.example" \
    "$(ifs images --json | field '" ".join(sorted({i["artifact_type"] for i in j}))')"
  echo more >"$M/rw/deep/new"
  same "$mode: written" "hello more" "$(cat "$M/rw/hello.txt" "$M/rw/deep/new" | tr '\n' ' ' | sed 's/ $//')"
  fstab "$M/later"
  alike model "$M/later"
  umount "$M/later"

  # A machine that starts again: the daemon is new, the entries are mounted again, and nothing is fetched.
  umount "$M/model" "$M/files" "$M/rw"
  ifs stop
  wait_for 20 '[ -z "$(daemons)" ]' || fail "the daemon does not stop"
  fetched=$(grep -c '"GET /v2/artifacts/.*/blobs/' "$REGISTRY_LOG" || true)
  fstab -a
  alike model "$M/model"
  same "$mode: kept" more "$(cat "$M/rw/deep/new")"
  same "$mode: blobs fetched again" "$fetched" "$(grep -c '"GET /v2/artifacts/.*/blobs/' "$REGISTRY_LOG" || true)"
  ifs umount --all
  nothing_left "$M"
done

# An artifact that may not be shown, and one that does not exist: their entries fail, the others are mounted.
cat >"$T/fstab" <<FSTAB
$REGISTRY/artifacts/bad:1 $M/bad imagefs $here 0 0
$REGISTRY/artifacts/none:1 $M/none imagefs $here 0 0
$REGISTRY/artifacts/files:1 $M/files imagefs $here 0 0
FSTAB
status=0
fstab -a >"$T/out" 2>"$T/err" || status=$?
same "status of mount -a: some failed" 64 $status
grep -q '\.\./outside' "$T/err" || fail "the reason is not said: $(cat "$T/err")"
grep -q 'artifacts/none:1' "$T/err" || fail "the other reason is not said: $(cat "$T/err")"
same "mounted" "$M/files" "$(mounts_below "$M")"
alike files "$M/files"
umount "$M/files"
ifs stop
