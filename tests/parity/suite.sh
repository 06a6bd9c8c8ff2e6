# SPDX-License-Identifier: Apache-2.0
# Sourced by the parity tests after lib.sh: puts an image on the disk and mounts it, and compares the two.
PARITY=$TESTS/parity
FAILED=0
mkdir -p "$T/disk"

# on_disk NAME [DIR]: $T/images/NAME unpacked at $T/disk/NAME (or DIR). The suite's own images are for tar, which is
# quick and makes holes; umoci knows how layers are stacked.
on_disk() {
  local to=${2:-$T/disk/$1}
  case $1 in
    everything | acls) unpacked "$T/images/$1" "$to" ;;
    *)
      umoci raw unpack --image "$T/images/$1:latest" "$to" >"$T/umoci.out" 2>&1 ||
        { cat "$T/umoci.out"; fail "umoci does not unpack $1"; }
      $PY "$PARITY/hard_links.py" "$T/images/$1" "$to" ;;
  esac
}

# A mount of its own, on which nothing can be written.
read_only() {
  mount --bind "$1" "$1"
  mount -o remount,ro,bind "$1"
}

# prepare NAME...: on the disk, and mounted in every mode at $M/NAME-MODE.
prepare() {
  local name mode
  MODES=$(modes)
  for name in "$@"; do
    on_disk "$name"
    read_only "$T/disk/$name"
    for mode in $MODES; do
      mkdir -p "$M/$name-$mode"
      # The disk knows neither nosuid nor nodev.
      ifs mount -q --mode "$mode" -o suid,dev "oci:$T/images/$name" "$M/$name-$mode" >/dev/null
    done
  done
}

compare() { timeout 250 $PY "$PARITY/parity.py" "$@"; }

# parity NAME TOPIC...: compares in every mode.
parity() {
  local name=$1 mode meta=()
  shift
  if [ -e "$T/images/$name.json" ]; then meta=(--meta "$T/images/$name.json"); fi
  for mode in $MODES; do
    compare --mode "$mode" ${meta[@]+"${meta[@]}"} "$T/disk/$name" "$M/$name-$mode" "$@" || FAILED=$((FAILED + 1))
  done
}

# verdict: fails when a comparison did.
verdict() { [ $FAILED = 0 ] || fail "$FAILED comparisons differ"; }
