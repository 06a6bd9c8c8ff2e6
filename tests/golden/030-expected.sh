#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What no runtime shows: images that must equal another one of the suite, and single fields.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
serve_suite
for name in $(suite_names); do
  other=$(field 'j.get("same_as") or ""' <"$T/images/$name.json")
  expected=$(field 'len(j.get("expect", {}))' <"$T/images/$name.json")
  [ -n "$other" ] || [ "$expected" != 0 ] || continue
  if ! mount_ours "$name"; then
    report "$name" "failed to mount"
    continue
  fi
  outcome=equal
  if [ -n "$other" ]; then
    [ -d "$M/$other" ] || mount_ours "$other"
    $PY "$LIB/tree.py" compare "$M/$other" "$M/$name" || outcome=different
  fi
  $PY "$LIB/tree.py" expect "$M/$name" "$T/images/$name.json" || outcome=different
  report "$name" $outcome
done
[ $FAILED = 0 ] || fail "$FAILED images"
