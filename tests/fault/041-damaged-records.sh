#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One bit of one record of the database turns: the daemon starts, other images and mounts do not notice,
# and the same words that made the record make it again or remove it.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image app a=2 b=1; push "$T/images/app" test/app:1; unpacked "$T/images/app" "$T/truth"
big_image other c=1; push "$T/images/other" test/other:1; unpacked "$T/images/other" "$T/truth-other"
app=$REGISTRY/test/app:1 other=$REGISTRY/test/other:1
mkdir "$M/app" "$M/other" "$M/again"

down() { ifs stop >/dev/null; wait_for 20 '[ -z "$(daemons)" ]' || fail "still running"; }
damage() { $PY "$LIB/turn_record.py" "$ROOT/db" "$1" >/dev/null || fail "no record $1"; }
right() { $PY "$LIB/tree.py" compare "$1" "$2" --loose-root || fail "wrong tree: $2 ($kind)"; }
damaged() { ifs status --json | field 'j["counters"]["store_records_damaged"]'; }

ifs pull -q "$app" >/dev/null; ifs pull -q "$other" >/dev/null
for kind in image manifest config layer chain; do
  for repair in mount pull always rm; do
    down
    damage "$kind/$([ $kind = image ] && echo "$app")"
    ifs images >"$T/list" || fail "$kind: the daemon does not start"
    # Whose record it was is not the same for every kind; both images are right afterwards.
    case $repair in
      mount) ;;
      pull) ifs pull -q "$app" >/dev/null ;;
      always) ifs pull -q --pull always "$app" >/dev/null ;;
      # Nothing is left of a record that lay in a table whose block is damaged.
      rm) ifs rm "$app" >/dev/null 2>"$T/err" || grep -q 'no image' "$T/err" || fail "$kind: rm" ;;
    esac
    for image in app other; do
      ifs mount -q "$REGISTRY/test/$image:1" "$M/$image" >/dev/null || fail "$kind: mount of $image"
    done
    right "$T/truth" "$M/app"; right "$T/truth-other" "$M/other"
    same "$kind: images" 3 "$(ifs images | wc -l)"
    ifs umount "$M/app"; ifs umount "$M/other"
    down
    ifs images >/dev/null
    same "$kind, $repair: damaged records after the repair" 0 "$(damaged)"
  done
done

# A removal that has nothing but the damaged record to remove.
kind='rm'; ifs rm "$app" >/dev/null; ifs pull -q "$app" >/dev/null; down; damage "image/$app"
ifs rm "$app" >/dev/null || fail "rm of a damaged image"
refuse 4 'no image' ifs rm "$app"
ifs pull -q "$app" >/dev/null

# The database as a whole: nothing keeps the daemon from starting, and everything comes again.
kind=database
for what in 'CURRENT' 'MANIFEST-*' '*.log' '*.ldb' '*'; do
  for how in cut gone noise noise-line; do
    down
    for file in "$ROOT"/db/$what; do
      [ -f "$file" ] || continue
      case $how in
        cut) truncate -s 0 "$file" ;;
        gone) rm "$file" ;;
        noise) head -c 3000 /dev/urandom >"$file" ;;
        # What LevelDB takes for the name of a file.
        noise-line) { head -c 3000 /dev/urandom; echo; } >"$file" ;;
      esac
    done
    ifs pull -q "$app" >/dev/null || fail "$what $how: pull"
    ifs mount -q "$app" "$M/app" >/dev/null || fail "$what $how: mount"
    right "$T/truth" "$M/app"
    ifs umount "$M/app"
  done
done
