#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Files of images without a mount: cat, cp, ls-files, export and diff give what a mount shows, as root and as a user
# without /dev/fuse; what a hostile image contains stays within the destination.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need tar
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  exec env IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0"
fi
cases="whiteouts whiteout-then-dir replace lib-over-link hardlinks hardlink-attributes xattrs trusted-xattrs special times
       negative-times owners names sparse implied inner-symlinks zstd"
image plain $cases
ref() { echo "oci:$T/images/$1"; }
mkdir "$M/t" "$T/made"

# Every tree: cp, export and its tar are what a mount shows.
for name in plain $cases; do
  ifs mount -q --mode fuse "$(ref "$name")" "$M/t" >/dev/null
  mkdir "$T/made/$name.cp" "$T/made/$name.tar"
  ifs cp "$(ref "$name"):/." "$T/made/$name.cp" 2>"$T/err" || fail "cp of $name: $(cat "$T/err")"
  [ ! -s "$T/err" ] || fail "cp of $name as root lost something: $(cat "$T/err")"
  $PY "$LIB/tree.py" compare "$M/t" "$T/made/$name.cp" --loose-root || fail "cp of $name gives another tree"
  ifs export "$(ref "$name")" >"$T/$name.tar"
  tar -C "$T/made/$name.tar" --numeric-owner --xattrs --xattrs-include='*' -xpf "$T/$name.tar" 2>"$T/err" ||
    fail "tar of $name: $(cat "$T/err")"
  $PY "$LIB/tree.py" compare "$M/t" "$T/made/$name.tar" --loose-root || fail "the tar of $name is another tree"
  (cd "$M/t" && find . -printf '%P\0' | sed -z 's:^:/:' | sort -z) >"$T/expected"
  ifs ls-files -0 "$(ref "$name")" | sort -z | cmp - "$T/expected" || fail "ls-files of $name lists other files"
  same "differences of $name from itself" "" "$(ifs diff --times "$(ref "$name")" "$(ref "$name")")"
  ifs umount "$M/t"
done

# One order, one archive; the next daemon and a store of its own give the same bytes.
sum=$(sha256sum <"$T/names.tar")
ifs stop; wait_for 20 '[ -z "$(daemons)" ]'
same "the archive, by another daemon" "$sum" "$(ifs export "$(ref names)" | sha256sum)"
same "the archive, by another store" "$sum" "$(store other; ifs export "$(ref names)" | sha256sum; ifs stop)"
$PY - "$T/names.tar" "$T/hardlinks.tar" <<'PY' || fail "the archive is not in order"
import sys, tarfile
for name in sys.argv[1:]:
    paths = [m.name.encode(errors="surrogateescape").split(b"/") for m in tarfile.open(name)]
    assert paths[0] == [b"."] and paths[1:] == sorted(paths[1:])
PY
if command -v podman >/dev/null; then
  ifs export "$(ref plain)" | own_podman import -q - localhost/flat:1 >/dev/null 2>"$T/err" || fail "podman import: $(cat "$T/err")"
fi

# cat, and what it refuses.
ifs mount -q --mode fuse "$(ref plain)" "$M/t" >/dev/null
file=$(cd "$M/t" && find . -type f -size +0 -printf '/%P\n' | sort | head -1)
ifs cat "$(ref plain)" "$file" "$file" | cmp - <(cat "$M/t$file" "$M/t$file") || fail "cat $file"
ifs umount "$M/t"
dir=$(dirname "$file")
refuse 4 "$file""x: no such file; the nearest name(s are| is) .*$(basename "$file")" ifs cat "$(ref plain)" "${file}x"
refuse 1 'is a directory; imagefs cp' ifs cat "$(ref plain)" "$file" /
[ -z "$(ifs cat "$(ref plain)" "$file" /absent 2>/dev/null)" ] || fail "something was printed before an absent path was found"
refuse 2 'a path in an image is absolute' ifs cat "$(ref plain)" "${file#/}"
said=$(ifs --json cat "$(ref plain)" "$file" 2>/dev/null || true)
grep -q 'omit --json' <<<"$said" || fail "cat as JSON: $said"
refuse 1 'is not IMAGE:/PATH' ifs cp "$(ref plain)" "$T/made"
refuse 4 'no such file' ifs ls-files "$(ref plain)" /absent
ifs cat "$(ref sparse)" "$(ifs ls-files "$(ref sparse)" | grep -v '^/$' | head -1)" >/dev/null || fail "cat of a sparse file"
(set +e; ifs export "$(ref plain)" >/dev/full 2>"$T/err"; [ $? = 1 ]) && grep -q 'No space left' "$T/err" || fail "a full output: $(cat "$T/err")"

# The rules of cp.
mkdir -p "$T/cp/dir"; cd "$T/cp"
base=$(basename "$file")
ifs cp "$(ref plain):$file" new && [ -f new ] || fail "a file under a new name"
ifs cp "$(ref plain):$file" dir && [ -f "dir/$base" ] || fail "a file into a directory"
ifs cp "$(ref plain):$file" new || fail "a file over a file"
refuse 1 'exists and is not a directory' ifs cp "$(ref plain):/" new
refuse 4 'No such file' ifs cp "$(ref plain):$file" absent/
refuse 4 'No such file' ifs cp "$(ref plain):$file" absent/deeper
refuse 4 'Not a directory' ifs cp "$(ref plain):$file" new/
ifs cp "$(ref plain):/" all && [ -f "all$file" ] || fail "a tree under a new name"
ifs cp "$(ref plain):/." all && [ ! -e all/all ] || fail "a tree once more, over itself"
if [ "$dir" != / ]; then
  ifs cp "$(ref plain):$dir" dir && [ -f "dir/$(basename "$dir")/$base" ] || fail "a directory into a directory"
fi
same "a file in a tar" "$base" "$(ifs cp "$(ref plain):$file" - | tar t)"
same "left of cp" "" "$(find "$T/cp" -name '.imagefs-cp-*')"
cd "$T"

# A hostile image: links that lead out, before and after the names behind them.
$PY - "$LIB" "$T/images/hostile" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
t = Tar()
t.symlink("a", "/etc").symlink("up", "../../../../../../tmp").symlink("self", "self").dir("real").file("real/f", b"x")
t.symlink("rel", "real/f").symlink("abs", "/real/f").symlink("dangling", "/etc/hostname")
simple_image(sys.argv[2], [Layer(t)])
PY
refuse 4 'no such file' ifs cat "$(ref hostile)" /a/hostname
refuse 4 'no such file' ifs cat "$(ref hostile)" /dangling
refuse 1 'too many levels' ifs cat "$(ref hostile)" /self
same "through links" xx "$(ifs cat "$(ref hostile)" /rel /abs)"
mkdir -p "$T/host/outside" "$T/host/dst"
ifs cp "$(ref hostile):/." "$T/host/dst"
same "a link is a link" "/etc" "$(readlink "$T/host/dst/a")"
# What is in the destination already leads nowhere either.
rm -rf "$T/host/dst" && mkdir "$T/host/dst"
ln -s ../outside "$T/host/dst/real"
refuse 1 'real' ifs cp "$(ref hostile):/." "$T/host/dst"
same "written through a link" "" "$(ls "$T/host/outside")"
rm "$T/host/dst/real"; mkdir "$T/host/dst/real"
echo keep >"$T/host/outside/f"; ln -s ../../outside/f "$T/host/dst/real/f"
ifs cp "$(ref hostile):/." "$T/host/dst"
same "a file behind a link" keep "$(cat "$T/host/outside/f")"
same "the copy" x "$(cat "$T/host/dst/real/f")"

# diff.
same "replace and plain" "$(ifs --json diff "$(ref plain)" "$(ref replace)" | field '"".join(c["kind"] + c["path"] for c in j["changes"])')" \
  "$(ifs diff "$(ref plain)" "$(ref replace)" | tr -d ' \n')"
status=0; ifs diff --exit-code "$(ref plain)" "$(ref replace)" >/dev/null || status=$?
same "status with --exit-code" 1 $status
ifs diff "$(ref plain)" "$(ref replace)" >/dev/null || fail "differences are no failure"
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
def made(name, edit):
    t = Tar().dir("d").file("d/same", b"s" * 5000).file("d/bytes", b"1" * 600000)
    edit(t)
    simple_image(f"{sys.argv[2]}/{name}", [Layer(t)])
made("one", lambda t: t.file("gone", b"").symlink("l", "a").file("d/size", b"1"))
made("two", lambda t: t.file("d/bytes", b"1" * 599999 + b"2").file("new", b"").symlink("l", "b").file("d/size", b"22").file("d/same", b"s" * 5000, mode=0o600))
PY
same "what differs" "C /d/bytes content,C /d/same mode,C /d/size size,D /gone ,C /l target,A /new " \
  "$(ifs --json diff "$(ref one)" "$(ref two)" | field '",".join(" ".join([c["kind"], c["path"], "+".join(c["what"])]) for c in j["changes"])')"

# JSON is as docs/cli.md has it, also of a failure after its beginning.
same "members" "path type mode uid gid size mtime links device target hard_link_to xattrs layer" \
  "$(ifs --json ls-files "$(ref plain)" | field '" ".join(j["files"][0])')"
layer=$(ifs --json ls-files --layer "$(ref plain)" "$file" | field 'j["files"][0]["layer"]')
[[ $layer == sha256:* ]] || fail "no layer is named: $layer"

# As a user, without FUSE.
hide_fuse
home=
user_home "$T/user"
chmod -R go+rX "$T/images"
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
same "the archive of a user" "$sum" "$(user export "$(ref names)" | sha256sum)"
user cp "$(ref special):/." "$home/m" 2>"$T/err" || fail "cp as a user: $(cat "$T/err")"
same "lines on what a user cannot keep" 1 "$(wc -l <"$T/err")"
grep -q 'not kept: .*device nodes' "$T/err" || fail "a user is told: $(cat "$T/err")"
[ -z "$(find "$home/m" -perm /6000)" ] || fail "setuid files of a user"
user stop
ifs stop
