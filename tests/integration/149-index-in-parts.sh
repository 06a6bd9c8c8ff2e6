#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The index in two parts: a mount waits for the layer indexes only; windows come when they are needed, and are verified; what
# happens when they are late, cut, wrong or absent, when the daemon ends before they are here, and with indexes of earlier
# versions.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need zstd
start_registry registry
start_shaper line
lazy_image app gzip 1 40
publish app
truth app "$T/truth"
ref=$SHAPED/test/app:1
subject=$(manifest_of app)
artifact() { lazy manifest "$REGISTRY/test/app" "sha256-${subject#sha256:}.imagefs" 2>/dev/null; }
of_type() { artifact | field "' '.join(l['$2'] if '$2' == 'digest' else str(l['$2']) for l in j['layers'] if 'layer-$1' in l['mediaType'])"; }
windows_path=$(of_type windows digest | tr ' ' '|')
late=$(cd "$T/truth" && find usr/share/doc -type f | sort -t/ -k5 -n | tail -1)  # far from the beginning of the layer
mkdir -p "$M"/{held,right,wrong,cut,ranges,false,absent,again,restart,old}
asked_for_windows() { grep -cE "\"path\": \"[^\"]*($windows_path)" "$SHAPER/requests" || true; }
whole() {  # whole DIR: all of it comes, and is right
  ifs pull -q --wait "$1" >/dev/null
  wait_for 60 "[ \"\$(states '$1')\" = complete ]" || fail "$1: $(state "$1"); $(tail -5 "$RUN/daemon.log")"
  lazy readers "$T/truth" "$1" --readers 2 >/dev/null || fail "$1: wrong bytes"
  same "tables without windows" "" "$(find "$ROOT/layers" -name windows)"
}
end() { ifs umount --all; ifs stop; }

# What is published.
index_bytes=0 windows_bytes=0
for size in $(of_type index size); do index_bytes=$((index_bytes + size)); done
for size in $(of_type windows size); do windows_bytes=$((windows_bytes + size)); done
echo "layer indexes $index_bytes, windows $windows_bytes"
[ "$windows_bytes" -gt 0 ] || fail "no windows: $(artifact)"
same "as told" "$((index_bytes + windows_bytes))" "$(field 'sum(l["index_bytes"] for l in j["layers"])' <"$T/published.json")"

# A mount needs no window, and a read that needs one waits for it.
store held
shape rules "[{\"path\": \"$windows_path\", \"delay\": 5}]" >/dev/null
forget_requests
ifs mount -q "$ref" "$M/held" >/dev/null
same "shown early" 2 "$(counter layers_lazy)"
same "windows that are here" 0 "$(counter fill_window_bytes)"
same "tree" "$(cd "$T/truth/usr" && find . | sort | sha256sum)" "$(cd "$M/held/usr" && find . | sort | sha256sum)"
cmp "$T/truth/$late" "$M/held/$late" || fail "wrong bytes"
[ "$(counter fill_window_bytes)" -gt 0 ] || fail "it needed no window"
shape rules '[]' >/dev/null
whole "$M/held"
end

# By every presentation, from nothing to all of it, each window once.
for mode in $(modes); do
  store "right-$mode"
  ifs mount -q --mode "$mode" "$ref" "$M/right" >/dev/null
  whole "$M/right"
  same "$mode: bytes of windows" "$windows_bytes" "$(counter fill_window_bytes)"
  # The table of the layer under its DiffID has them: its data can be given back and fetched in parts again.
  ifs umount "$M/right"
  ifs mount -q --mode "$mode" "$ref" "$M/right" >/dev/null
  lazy readers "$T/truth" "$M/right" --readers 2 >/dev/null || fail "$mode: wrong bytes"
  end
done

# A byte that is damaged once, a connection that is cut, a registry that knows no ranges.
trouble() {  # trouble NAME RULE
  store "$1"
  shape rules "[{\"path\": \"$windows_path\", $2}]" >/dev/null
  ifs mount -q "$ref" "$M/$1" >/dev/null
  whole "$M/$1"
  same "$1: layers that failed" 0 "$(counter layers_failed)"
  shape rules '[]' >/dev/null
  end
}
trouble wrong '"wrong_byte": 100, "times": 1'
trouble cut '"cut": 1000, "times": 2'
trouble ranges '"ignore_range": true'

# Windows that are not those of the index, or do not exist: reads fail, and the next mount takes a pass over the whole.
for how in windows absent; do
  [ "$how" = windows ] && where=false || where=absent
  publish app
  lazy lie "$REGISTRY/test/app" "$subject" "$how"
  store "$how"
  ifs mount -q "$ref" "$M/$where" >/dev/null
  reads_fail "$M/$where/$late"
  wait_for 20 '[ "$(counter layers_failed)" = 1 ]' || fail "$how: $(state "$M/$where")"
  log_says 'layer_damaged .*windows' || fail "$how: the log does not say why: $(tail -5 "$RUN/daemon.log")"
  mkdir -p "$M/again-$how"
  ifs mount -q "$ref" "$M/again-$how" >/dev/null
  cmp "$T/truth/$late" "$M/again-$how/$late" || fail "$how: wrong bytes"
  end
done

# A daemon that is killed before the windows are here: the next one asks for them again.
publish app
store restart
shape rules "[{\"path\": \"$windows_path\", \"delay\": 60}]" >/dev/null
ifs mount -q --mode fuse "$ref" "$M/restart" >/dev/null
same "windows that are here" 0 "$(counter fill_window_bytes)"
slay "$(daemons_of "$RUN")"
shape rules '[]' >/dev/null
ifs mount -q "$ref" "$M/again" >/dev/null  # starts a daemon, which goes on with the others
cmp "$T/truth/$late" "$M/restart/$late" || fail "wrong bytes after a restart"
same "layers that were dropped" 0 "$(counter layers_dropped)"
whole "$M/restart"
end
# One whose table lost a part in between is fetched again.
store restart2
shape rules "[{\"path\": \"$windows_path\", \"delay\": 60}]" >/dev/null
ifs mount -q "$ref" "$M/restart" >/dev/null
ifs umount --all; ifs stop
shape rules '[]' >/dev/null
find "$ROOT/layers" -name windows -delete
ifs mount -q "$ref" "$M/again" >/dev/null
lazy readers "$T/truth" "$M/again" --readers 2 >/dev/null || fail "wrong bytes"
end

# An index of an earlier version.
lazy lie "$REGISTRY/test/app" "$subject" old
same "its form" application/vnd.imagefs.layer-index.v1+zstd "$(of_type index mediaType | cut -d' ' -f1)"
store old
ifs mount -q "$ref" "$M/old" >/dev/null
same "shown early" 2 "$(counter layers_lazy)"
whole "$M/old"
same "windows that came late" 0 "$(counter fill_window_bytes)"
end
