#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Shared stores: images exported once are used in place by several daemons, also of users and without a registry; what is
# in them is believed only after it was hashed; they are never written; they may go away under mounts.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
big_image big a=6 b=1; push "$T/images/big" test/big:1
image sparse whiteouts many-layers
for name in sparse whiteouts many-layers; do push "$T/images/$name" "test/$name:1"; done
start_proxy proxy
shared=$T/shared
# What a tree is: names, kinds, owners, times, links, xattrs and bytes.
tree() { tar -C "$1" --sort=name --numeric-owner --xattrs --xattrs-include='*' -cf - . | sha256sum; }
own_bytes() { du -s -B1 --exclude=db "$ROOT" | cut -f1; }
asked() { wc -l <"$BEGAN"; }

# ---- what every store must show
mkdir "$M/truth" "$M/a" "$M/b"
declare -A trees
store truth
for name in big sparse whiteouts many-layers; do
  ifs mount -q "$REGISTRY/test/$name:1" "$M/truth" >/dev/null
  trees[$name]=$(tree "$M/truth")
  ifs umount "$M/truth"
done
ifs stop

# ---- made, added to, never begun anew
store maker
mkdir "$T/other" && touch "$T/other/file"
refuse 1 'is not empty and not a store made by imagefs export-store .it has file.' ifs export-store -q "$T/other" "$PROXY/test/big:1"
refuse 1 'is no store made by imagefs export-store' ifs import -q "$T/other"
(umask 077 && ifs export-store "$shared" "$PROXY/test/big:1" "$PROXY/test/sparse:1" >"$T/out")
grep -q "^$shared has $PROXY/test/big:1: 2 layers, [0-9.]* MiB added" "$T/out" || fail "export: $(cat "$T/out")"
ifs export-store --json "$shared" "$PROXY/test/big:1" "$PROXY/test/whiteouts:1" "$PROXY/test/many-layers:1" >"$T/out"
same "what was added again" 0 "$(field 'j["images"][0]["added_bytes"]' <"$T/out")"
[ "$(field 'j["images"][1]["added_bytes"]' <"$T/out")" -gt 0 ] || fail "export: $(cat "$T/out")"
same "unreadable to others" "" "$(find "$shared" ! -perm -o=r ! -name lock)"
ifs stop
inventory() { find "$shared" -printf '%p %s %T@ %C@ %m\n' | sort | sha256sum; }
before=$(inventory)

# ---- used in place: by two daemons at once, without the registry
requests_before=$(asked)
configure '[fill]' 'background = false' '[store]' "shared = [\"$T/not-mounted\", \"$shared\"]"
for one in a b; do
  store "$one"
  same "images" "4 shared" "$(ifs images --json | field 'str(len(j)) + " " + " ".join({i["state"] for i in j})')"
  ifs images | grep -q "test/big:1 .* shared, $shared" || fail "images: $(ifs images)"
  for name in big sparse whiteouts many-layers; do
    for mode in $(modes); do
      ifs mount -q --mode "$mode" "$PROXY/test/$name:1" "$M/$one" >/dev/null
      same "$name by $one, mode $mode" "${trees[$name]}" "$(tree "$M/$one")"
      ifs umount "$M/$one"
    done
  done
  [ "$(own_bytes)" -lt 3000000 ] || fail "the store has $(own_bytes) bytes of its own: $(du -a "$ROOT")"
  # Only the indexes are its own.
  same "bytes of layers in df" True "$(ifs df --json | field 'sum(k["disk_bytes"] for k in j["kinds"] if k["kind"].startswith("layers")) < 1000000 and "True"')"
done
same "written to" "$before" "$(inventory)"
# Restarted, and killed: the layers stay, and are not hashed again.
ifs mount -q "$PROXY/test/big:1" "$M/b" >/dev/null
slay $(daemons_of "$T/store-b/")
ifs ls >/dev/null
same "after a kill" "${trees[big]}" "$(tree "$M/b")"
! log_says 'layer.damaged' || fail "a layer is taken for damaged"
ifs umount "$M/b"
refuse 4 'test/none:1 .*is not in the store' ifs mount -q --pull never "$PROXY/test/none:1" "$M/b"

# ---- many callers, one pass
store storm
mkdir "$M/s"{1..12}
one_of() { ifs mount -q "$PROXY/test/big:1" "$M/s$1"; }
storm 12 one_of
same "passes over the layers" "2 2" "$(ifs status --json | field 'str(j["flights"]["shared"]["leaders"]) + " " + str(len(j["layers"]))')"
for i in 1 12; do same "mount $i" "${trees[big]}" "$(tree "$M/s$i")"; done
ifs rm "$PROXY/test/big:1" 2>/dev/null >/dev/null
for i in {1..12}; do ifs umount "$M/s$i"; done
wait_for 30 '[ "$(ls "$ROOT/layers" | wc -l)" = 0 ]' || fail "left: $(ls "$ROOT/layers")"
same "written to" "$before" "$(inventory)"

# ---- through a read-only mount
mount --bind "$shared" "$shared" && mount -o remount,bind,ro "$shared"
store readonly
ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null
same "read-only" "${trees[big]}" "$(tree "$M/a")"
ifs pull -q "$PROXY/test/big:1" >/dev/null
# ... which goes away while the image is in use: what is open stays, nothing hangs.
umount -l "$shared"
timeout 60 cat "$M/a/a/bytes" >/dev/null || true
ifs umount "$M/a"

# ---- removed under a mount
cp -a "$shared" "$T/going"
configure '[fill]' 'background = false' '[store]' "shared = [\"$T/going\"]"
store going
ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null
mv "$T/going" "$T/gone"
timeout 60 cat "$M/a/a/bytes" >/dev/null || fail "an open layer is lost"
ifs umount "$M/a"
refuse 4 '.' ifs mount -q --pull never "$PROXY/test/big:1" "$M/a"
mv "$T/gone" "$T/going"
ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null
same "it is back" "${trees[big]}" "$(tree "$M/a")"
ifs umount "$M/a"; ifs stop

same "requests to the registry" "$requests_before" "$(asked)"

# ---- lies: another byte, another size, another kind of file, a wrong record. Never a wrong byte: the registry has it
lie() { # NAME REGEX COMMAND
  rm -rf "$T/lie"
  cp -a "$shared" "$T/lie"
  data=$(find "$T/lie/layers" -name data -size +4M)
  eval "$3"
  configure '[fill]' 'background = false' '[store]' "shared = [\"$T/lie\"]"
  store "lie-$1"
  refuse '1|3|4' '.' ifs mount -q --pull never "$PROXY/test/big:1" "$M/a"
  log_says "$2" || fail "$1: not said: $(grep shared "$RUN/daemon.log")"
  ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null
  same "$1" "${trees[big]}" "$(tree "$M/a")"
  ifs umount "$M/a"
  ifs stop
}
lie byte 'layer_refused path=.*digest' 'printf X | dd of="$data" bs=1 seek=3000000 conv=notrunc status=none'
lie short 'layer_refused path=.*is no plain file of' 'truncate -s -512 "$data"'
lie long 'layer_refused path=.*is no plain file of' 'truncate -s +512 "$data"'
lie fifo 'layer_refused path=.*is no plain file of' 'rm "$data"; mkfifo "$data"'
lie link 'layer_refused path=' 'mv "$data" "$T/lie/x"; ln -s "$T/lie/x" "$data"'
lie directory 'layer_refused path=' 'rm "$data"; mkdir "$data"'
lie record 'shared.unreadable store=' 'echo "{" >"${data%/data}/layer.json"'
lie future 'shared.unreadable store=.*its format is 2' 'sed -i "s/\"format\": 1/\"format\": 2/" "${data%/data}/layer.json"'
lie sizes 'layer_refused path=' 'sed -i "s/\"tar_bytes\": [0-9]*/\"tar_bytes\": 512/" "${data%/data}/layer.json"'
lie document 'shared.unreadable store=.*another digest' 'for f in "$T/lie"/documents/*; do echo >>"$f"; done'
# The moved segments of sparse files are not part of the tar that is hashed.
rm -rf "$T/lie"; cp -a "$shared" "$T/lie"
for data in "$T/lie"/layers/*/data; do
  tar_bytes=$(field 'j["tar_bytes"]' <"${data%/data}/layer.json")
  [ "$(stat -c %s "$data")" -gt "$tar_bytes" ] || continue
  $PY - "$data" "$tar_bytes" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]))
    tail = f.read()
    at = next(i for i, b in enumerate(tail) if b)
    f.seek(int(sys.argv[2]) + at)
    f.write(bytes([tail[at] ^ 1]))
PY
  moved=yes
done
[ "${moved:-}" = yes ] || fail "no layer has moved segments"
configure '[fill]' 'background = false' '[store]' "shared = [\"$T/lie\"]"
store lie-moved
refuse 3 'segments of its sparse files' ifs mount -q --pull never "$PROXY/test/sparse:1" "$M/a"
ifs mount -q "$PROXY/test/sparse:1" "$M/a" >/dev/null
same "moved segments" "${trees[sparse]}" "$(tree "$M/a")"
ifs umount "$M/a"; ifs stop
# Written to after it was hashed: hashed again before the next use.
rm -rf "$T/lie"; cp -a "$shared" "$T/lie"
store lie-later
ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null; ifs umount "$M/a"; ifs stop
printf X | dd of="$(find "$T/lie/layers" -name data -size +4M)" bs=1 seek=3000000 conv=notrunc status=none
ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null
same "changed later" "${trees[big]}" "$(tree "$M/a")"
ifs umount "$M/a"; ifs stop

# ---- a layer is given only to who may have its blob: another image that claims its DiffID gets its own bytes or nothing
configure '[fill]' 'background = false' '[store]' "shared = [\"$shared\"]"
store thief
$PY - "$LIB" "$T/images/big" "$T/images/thief" <<'PY'
import json, shutil, sys
sys.path.insert(0, sys.argv[1])
from oci import *
def read(layout, digest): return json.load(open(f"{layout}/blobs/sha256/{digest[7:]}"))
index = json.load(open(sys.argv[2] + "/index.json"))
manifest = read(sys.argv[2], index["manifests"][0]["digest"])
claims = read(sys.argv[2], manifest["config"]["digest"])["rootfs"]["diff_ids"]
layers = [Layer(Tar().dir("own").file("own/x", b"%d" % i * 9)) for i in range(len(claims))]
for layer, claim in zip(layers, claims): layer.diff_id = claim
simple_image(sys.argv[3], layers)
PY
push "$T/images/thief" test/thief:1
refuse 3 'DiffID' ifs mount -q "$PROXY/test/thief:1" "$M/a"
ifs stop

# ---- an export that was killed goes on; a second one at the same time is refused
store maker2
ifs pull -q "$PROXY/test/big:1" >/dev/null
for delay in 0.00 0.02 0.04; do
  ifs export-store -q "$T/killed" "$PROXY/test/big:1" >/dev/null 2>&1 & export=$!
  sleep $delay
  slay $(daemons_of "$T/store-maker2/")
  wait $export || true
done
ifs export-store -q "$T/killed" "$PROXY/test/big:1" >/dev/null
same "left of killed exports" "" "$(find "$T/killed" -name 'tmp-*')"
(flock 9; refuse 6 'another process is adding' ifs export-store -q "$T/killed" "$PROXY/test/big:1") 9>>"$T/killed/lock"
ifs stop

# ---- import: a copy that needs neither the directory nor a registry
configure '[fill]' 'background = false'
store import
refuse 4 'has no image .*test/none:1' ifs import -q "$T/killed" "$PROXY/test/none:1"
ifs import --json "$T/killed" >"$T/out"
same "imported" "$PROXY/test/big:1" "$(field 'j["images"][0]["reference"]' <"$T/out")"
ifs import "$shared" "$PROXY/test/sparse:1" | grep -q "$PROXY/test/sparse:1 is in the store, from $shared" || fail "import"
rm -rf "$T/killed"
for name in big sparse; do
  ifs mount -q --pull never "$PROXY/test/$name:1" "$M/a" >/dev/null
  same "imported $name" "${trees[$name]}" "$(tree "$M/a")"
  ifs umount "$M/a"
done
same "states" "complete complete" "$(ifs images --json | field '" ".join(i["state"] for i in j)')"
ifs stop

# ---- the full disk of an export says which
mkdir "$T/small" && mount -t tmpfs -o size=3M tmpfs "$T/small"
store maker2
refuse 10 "$T/small.*(No space|space)" ifs export-store -q "$T/small" "$PROXY/test/big:1"
same "left on the full disk" "" "$(find "$T/small" -name 'tmp-*')"
ifs stop

# ---- a user's daemon with what root exported
home='' uid=''
user_home "$T/user"
mkdir -p "$home/.config/imagefs"
printf '[store]\nshared = ["%s"]\n' "$shared" >"$home/.config/imagefs/config.toml"
chown -R "$uid" "$home"
ifu() { as_user timeout -k 5 60 "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
requests_before=$(asked)
ifu pull -q "$PROXY/test/big:1" >/dev/null
same "a user's image" "complete" "$(ifu images --json | field '[i["state"] for i in j if not i["shared"]][0]')"
[ "$(du -s -B1 --exclude=db "$home/root" | cut -f1)" -lt 3000000 ] || fail "the user has a copy: $(du -a "$home/root")"
same "requests of the user" "$requests_before" "$(asked)"
ifu stop
