#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What `make install` installs runs from its prefix, with every document and all of their links, and `make uninstall` removes
# it, and nothing else.
. "$(dirname "$0")/../lib/lib.sh"
need cmake
export IMAGEFS_BUILD=${TEST_BUILD:-$SOURCE/build/release}
prefix=$T/prefix
mkdir -p "$prefix/bin" "$prefix/share/doc/other"
echo mine >"$prefix/bin/mine"
find "$prefix" | sort >"$T/before"
mkdir "$prefix/empty"
install() { "$SOURCE/scripts/install.sh" "$prefix" >"$T/install.out" 2>&1 || { cat "$T/install.out"; fail install; }; }
install
install   # again: an upgrade

for program in imagefs imagefsd; do
  same "version of $program" "$("$IMAGEFS" --version)" "$("$prefix/bin/$program" --version | sed s/imagefsd/imagefs/)"
done
same "mount.imagefs" "$prefix/bin/imagefs" "$(readlink -f "$prefix/sbin/mount.imagefs")"
grep -qx "ExecStart=$prefix/bin/imagefsd daemon" "$prefix/lib/systemd/system/imagefs.service" || fail "the unit starts another program"
documents=$prefix/share/doc/imagefs
$PY "$TESTS/lint/links.py" --installed "$documents" || fail "links of the documents"
same "documents" "$(cd "$SOURCE" && find docs -name '*.md' -o -path docs/json-schema.json | sort)" \
  "$(cd "$documents" && find docs -type f | sort)"
cmp "$SOURCE/LICENSE" "$documents/LICENSE"
cmp "$SOURCE/proto/control.proto" "$documents/proto/control.proto"

# A list that names what is not ours removes nothing.
list=$prefix/share/imagefs/installed-files
cp "$list" "$T/list"
for wrong in /etc/passwd "$prefix/../x" relative; do
  echo "$wrong" >>"$list"
  ! "$SOURCE/scripts/uninstall.sh" "$prefix" >"$T/out" 2>&1 || fail "$wrong would be removed"
  grep -q "names $wrong, which is no file of imagefs" "$T/out" || fail "$(cat "$T/out")"
  cp "$T/list" "$list"
done
[ -x "$prefix/bin/imagefs" ] || fail "something was removed"

"$SOURCE/scripts/uninstall.sh" "$prefix" >"$T/out"
same "said" "uninstall: $(($(wc -l <"$T/list") + 1)) files removed from $prefix; stores, mounts and configurations stay" "$(cat "$T/out")"
same "what is left" "" "$(find "$prefix" ! -type d | grep -vx "$prefix/bin/mine" || true)"
same "directories of imagefs that are left" "" "$(find "$prefix" -mindepth 1 -name '*imagefs*')"
[ -d "$prefix/empty" ] && [ -d "$prefix/share/doc/other" ] || fail "other directories were removed"
! "$SOURCE/scripts/uninstall.sh" "$prefix" >"$T/out" 2>&1 || fail "removed twice"
grep -q 'installed-files: no such file' "$T/out" || fail "$(cat "$T/out")"

# For who makes packages.
prefix=/opt/imagefs
export DESTDIR=$T/staged
install
[ -x "$DESTDIR/opt/imagefs/bin/imagefs" ] || fail "DESTDIR"
"$SOURCE/scripts/uninstall.sh" $prefix >"$T/out"
same "what is left" "" "$(find "$DESTDIR" ! -type d)"
