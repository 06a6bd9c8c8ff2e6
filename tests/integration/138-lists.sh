#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What ls and images list: all, or what is named or filtered; columns; digests as
# names of images in other verbs; words of other tools.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
image plain whiteouts replace
push "$T/images/plain" team/app:1
push "$T/images/replace" team/app:2
push "$T/images/replace" team/copy:1
push "$T/images/whiteouts" team/other:1
for name in team/app:1 team/app:2 team/copy:1 team/other:1; do ifs pull -q "$REGISTRY/$name" >/dev/null; done
mkdir "$M/a" "$M/b" "$M/übung" "$M/"$'line\nbreak\e[31m'
ifs mount -q "$REGISTRY/team/app:1" "$M/a" >/dev/null
ifs mount -q --mode fuse "$REGISTRY/team/other:1" "$M/b" >/dev/null

lines() { xargs -r -n1 basename | sort | xargs; }
same "all images" "app:1 app:2 copy:1 other:1" "$(ifs images -q | lines)"
same "all tags" "app:1 app:2" "$(ifs images -q "$REGISTRY/team/app" | lines)"
same "one" "app:2" "$(ifs images -q "$REGISTRY/team/app:2" | lines)"
same "a pattern" "other:1" "$(ifs images -q '*/oth*' | lines)"
same "several, none twice" "app:1 app:2 copy:1 other:1" "$(ifs images -q "$REGISTRY/team/app:1" '*' | lines)"
refuse 4 'no image .*team/app:3 in the store' ifs images "$REGISTRY/team/app:3"
same "used" "app:1 other:1" "$(ifs images -q --filter used=true | lines)"
same "used by nobody, of a name" "app:2" "$(ifs images -q --filter used=false --filter 'reference=*/app:*' | lines)"
same "JSON, too" 2 "$(ifs images --json --filter used=false | field 'len(j)')"
same "none" "[]" "$(ifs images --json --filter pinned=true | tr -d ' \n')"
same "columns" "DISK REFERENCE" "$(ifs images -o disk,reference | head -1 | xargs)"
same "no headings" 4 "$(ifs images -n | wc -l)"
refuse 2 'no column; the columns are REFERENCE' ifs images -o size
refuse 2 'no filter.*the keys are directory' ifs ls --filter used=true

same "mounts" "a b" "$(ifs ls -q | lines)"
same "one mount" "a" "$(ifs ls -q "$M/a" | lines)"
same "by a relative name" "a" "$(cd "$M" && ifs ls -q a | lines)"
same "by mode" "b" "$(ifs ps -q --filter mode=fuse | lines)"
refuse 4 'no image is mounted on .*none' ifs ls "$M/none"

# Digests.
digest=$(ifs images --json "$REGISTRY/team/other:1" | field 'j[0]["manifest"]')
short=${digest#sha256:}; short=${short:0:12}
same "shown" "$short" "$(ifs images -n -o digest "$REGISTRY/team/other:1")"
same "a short digest" "$REGISTRY/team/other:1" "$(ifs inspect --json "$short" | field 'j["reference"]')"
same "the digest" "other:1" "$(ifs images -q "$digest" | lines)"
both=$(ifs images -n -o digest "$REGISTRY/team/copy:1")
refuse 1 "$both is the digest of .*team/app:2 and of .*team/copy:1; name one of them" ifs inspect "$both"
refuse 4 'no image' ifs rm 0123456789ab
ifs pin "$short"
same "pinned by digest" "other:1" "$(ifs images -q --filter pinned=true | lines)"
ifs unpin "$short"

# Names that are narrower than their bytes.
ifs mount -q "$REGISTRY/team/app:2" "$M/übung" >/dev/null
refuse 2 'control characters' ifs mount -q "$REGISTRY/team/app:2" "$M/"$'line\nbreak\e[31m'
LC_ALL=C.UTF-8 ifs ls >"$T/table"
same "a line each" 4 "$(wc -l <"$T/table")"
$PY - "$T/table" <<'P' || fail "the columns are not below each other: $(cat "$T/table")"
import sys
table = open(sys.argv[1], encoding="utf-8").read().splitlines()
column = table[0].index("REFERENCE")
sys.exit(any(line[column - 2:column] != "  " or line[column] == " " for line in table[1:]))
P

# Words of other tools.
ifs unmount -l "$M/b"
same "removed" "app:1 app:2 copy:1" "$(ifs rmi "$REGISTRY/team/other:1" >/dev/null && ifs images -q | lines)"
same "version" "$(ifs --version)" "$(ifs version)"
ifs unmount -a
same "nothing is mounted" "[]" "$(ifs list --json | tr -d ' \n')"
nothing_left "$M"
