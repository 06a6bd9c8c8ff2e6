#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kernel mounts the index of a chain with the layers' data files as its devices, and shows the
# same tree as the FUSE presentation.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
grep -qw erofs /proc/filesystems || modprobe erofs 2>/dev/null || skip "the kernel has no EROFS"
image
for name in $(suite_names); do
  mkdir -p "$M/$name" "$T/kernel/$name"
  ifs mount -q --mode fuse "oci:$T/images/$name" "$M/$name" >/dev/null || { report "$name" "failed to mount"; continue; }
  ifs inspect --json "oci:$T/images/$name" >"$T/inspect.json"
  chain=$(field 'j["chain_id"].split(":")[1]' <"$T/inspect.json")
  data=()
  for layer in $(field '" ".join(l["diff_id"].split(":")[1] for l in j["layers"])' <"$T/inspect.json"); do
    data+=("$ROOT/layers/$layer/data")
  done
  status=0
  $PY "$LIB/mount_erofs.py" "$ROOT/chains/$chain" "$T/kernel/$name" "${data[@]}" 2>"$T/mount.err" || status=$?
  [ $status != 77 ] || [ -n "${mounted:-}" ] || skip "the kernel mounts no EROFS from files: $(tail -n 1 "$T/mount.err")"
  if [ $status != 0 ]; then
    report "$name" "failed: $(tail -n 1 "$T/mount.err")"
    continue
  fi
  mounted=yes
  if $PY "$LIB/tree.py" compare "$T/kernel/$name" "$M/$name"; then
    report "$name" "equal"
  else
    report "$name" "different"
  fi
  umount "$T/kernel/$name"
done
[ $FAILED = 0 ] || fail "$FAILED images"
