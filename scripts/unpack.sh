#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks Debian packages of another release, with all that they depend on, into a folder, without
# touching this machine's packages: for tools that are newer there. The C library comes along, so run
# the programs with the folder's own loader:
#   DIR/run PROGRAM ARGUMENT...      e.g. DIR/run /usr/bin/fsck.erofs
#   scripts/unpack.sh [--only REGEX] [--arch ARCHITECTURE] SUITE DIR PACKAGE...
# REGEX: of what is needed, only these packages. ARCHITECTURE: another than this machine's, for a cross compiler.
set -euo pipefail
only=.
architecture=$(dpkg --print-architecture)
[ "$1" = --only ] && { only=$2; shift 2; }
[ "$1" = --arch ] && { architecture=$2; shift 2; }
suite=$1 dir=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
[ ! -e "$dir/.unpacked" ] || exit 0
# Tests that run at the same time want the same.
mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
flock 9
[ ! -e "$dir/.unpacked" ] || exit 0
rm -rf "$dir" && mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
apt=$dir/.apt
mkdir -p "$apt"/{lists/partial,archives/partial,etc/apt.conf.d,etc/preferences.d,debs}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $("$here/mirror.sh" uri) $suite main" >"$apt/etc/sources.list"
: >"$apt/status"
options=(-o Dir::Etc="$apt/etc" -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status"
  -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" -o APT::Sandbox::User=root -o Acquire::Retries=3
  -o APT::Install-Recommends=false -o Acquire::Languages=none
  -o APT::Architecture="$architecture" -o APT::Architectures::="$architecture")
apt-get "${options[@]}" -qq update >&2
# An empty status file makes apt think of an empty machine: everything needed is in the list.
apt-get "${options[@]}" --print-uris -qq install "$@" | cut -d"'" -f2 |
  sed 's@.*/@@; s@_.*@@; s/%2b/+/g' | sort -u >"$apt/needed"
(cd "$apt/debs" && grep -vE '^(debconf|perl-base|dpkg|gcc-[0-9]*-base|base-files|systemd.*|udev)$' "$apt/needed" |
  grep -E -- "$only" | xargs apt-get "${options[@]}" -qq download >&2)
for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$dir"; done
rm -rf "$apt"
cat >"$dir/run" <<'RUN'
#!/bin/sh
dir=$(dirname "$(readlink -f "$0")")
program=$1
shift
libraries=$dir/lib/x86_64-linux-gnu:$dir/usr/lib/x86_64-linux-gnu:$dir/lib/aarch64-linux-gnu:$dir/usr/lib/aarch64-linux-gnu
for loader in "$dir"/lib64/ld-linux-*.so.* "$dir"/lib/ld-linux-*.so.* "$dir"/usr/lib64/ld-linux-*.so.* "$dir"/usr/lib/*/ld-linux-*.so.*; do
  [ -e "$loader" ] && exec "$loader" --library-path "$libraries" "$dir$program" "$@"
done
exec "$dir$program" "$@"
RUN
chmod +x "$dir/run"
touch "$dir/.unpacked"
