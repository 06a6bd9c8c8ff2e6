#!/bin/bash
# The kernel mounts the index of a chain with the layers' data files as its devices, and shows the
# same tree as the FUSE presentation.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
grep -qw erofs /proc/filesystems || modprobe erofs 2>/dev/null || skip "the kernel has no EROFS"
image
for name in $(suite_names); do
  mkdir -p "$M/$name" "$T/kernel/$name"
  ifs mount -q "oci:$T/images/$name" "$M/$name" >/dev/null || { report "$name" "failed to mount"; continue; }
  ifs inspect --json "oci:$T/images/$name" >"$T/inspect.json"
  chain=$(field 'j["chain_id"].split(":")[1]' <"$T/inspect.json")
  layers=$(field '" ".join(l["diff_id"].split(":")[1] for l in j["layers"])' <"$T/inspect.json")
  # One options string is a page, so images of many layers are left to the unit tests.
  [ "$(wc -w <<<"$layers")" -le 8 ] || { report "$name" "left out: many layers"; continue; }
  options=ro i=0
  # Short names, since they share one page.
  for layer in $layers; do
    ln -sfn "$(find "$ROOT/layers" -path "*$layer*" -name data)" "$T/d$i"
    options+=,device=$T/d$i
    i=$((i + 1))
  done
  index=$(find "$ROOT/chains" -path "*$chain*" -type f | head -1)
  if ! mount -t erofs -o "$options" "$index" "$T/kernel/$name" 2>"$T/mount.err"; then
    grep -qi 'block device' "$T/mount.err" && skip "the kernel mounts no EROFS from a file: $(cat "$T/mount.err")"
    report "$name" "failed: $(tail -n 1 "$T/mount.err")"
    continue
  fi
  if $PY "$LIB/tree.py" compare "$T/kernel/$name" "$M/$name"; then
    report "$name" "equal"
  else
    report "$name" "different"
  fi
  umount "$T/kernel/$name"
done
[ $FAILED = 0 ] || fail "$FAILED images"
