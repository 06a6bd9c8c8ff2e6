#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fsck.erofs accepts every index that the suite gives: those of the layers and those of the chains.
# Debian 12's own is too old for 512-byte blocks, so a newer one is unpacked beside the build.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
peers=$SOURCE/build/peers/erofs
timeout 300 "$SOURCE/scripts/unpack.sh" sid "$peers" erofs-utils >"$T/unpack.log" 2>&1 ||
  { tail -3 "$T/unpack.log"; rm -rf "$peers"; skip "no newer erofs-utils could be had from the Debian mirror"; }
"$peers/run" /usr/bin/fsck.erofs --version >/dev/null 2>&1 || skip "the newer fsck.erofs does not run here"
image
count=0
check() {  # check INDEX DATA...
  local options=() index=$1 data
  shift
  for data in "$@"; do options+=("--device=$data"); done
  count=$((count + 1))
  "$peers/run" /usr/bin/fsck.erofs "${options[@]}" "$index" >"$T/fsck.out" 2>&1 && ! grep -qi 'corrupt\|error' "$T/fsck.out" ||
    { tail -n 5 "$T/fsck.out"; return 1; }
}
for name in $(suite_names); do
  ifs pull -q "oci:$T/images/$name" >/dev/null || { report "$name" "failed to pull"; continue; }
  mapfile -t layers < <(ifs inspect --json "oci:$T/images/$name" | field '"\n".join(l["diff_id"].split(":")[1] for l in j["layers"])')
  chain=$(ifs inspect --json "oci:$T/images/$name" | field 'j["chain_id"].split(":")[1]')
  data=() outcome=accepted
  for layer in "${layers[@]}"; do
    file=$(find "$ROOT/layers" -path "*$layer*" -name data)
    [ -n "$file" ] || { outcome="failed: no data file of $layer"; break; }
    data+=("$file")
    check "$(find "$ROOT/layers" -path "*$layer*" -name index)" "$file" || outcome="failed: index of layer $layer"
  done
  check "$(find "$ROOT/chains" -path "*$chain*" -type f | head -1)" "${data[@]}" || outcome="failed: index of the chain"
  report "$name" "$outcome"
done
echo "$count indexes checked"
[ $FAILED = 0 ] || fail "$FAILED images"
