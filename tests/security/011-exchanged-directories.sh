#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A local user who owns a directory above a mount or an upper directory exchanges it for a link: the daemon mounts,
# makes, changes and removes nothing where that leads.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need setpriv
image plain
ref=oci:$T/images/plain
mkdir "$M"/{w,x}
as_user() { setpriv --reuid 1234 --regid 1234 --clear-groups sh -c 'exec "$0" "$@"' "$@"; }
as_user test -d "$T" || fail "uid 1234 cannot reach $T"

# The victim's: what is there must stay as it is, to the last mode bit.
mkdir -p "$T"/victim/{lib,upper,work}
echo precious >"$T/victim/lib/file"
echo s3cret >"$T/victim/f"
chmod 700 "$T/victim/lib"
chmod 600 "$T/victim/f"
snapshot() { find "$T/victim" -printf '%p %m %U %G %T@ %C@ %s\n' | sort; }
BEFORE=$(snapshot)
unharmed() {
  same "$1: what the victim has" "$BEFORE" "$(snapshot)"
  same "$1: mounts over the victim's" "" "$(mounts_below "$T/victim")"
}
own() { mkdir -p "$1" && chown -R 1234:1234 "$T/home"; }

for mode in $(modes); do
  mnt() { ifs mount -q --mode "$mode" "$@" >/dev/null; }
  rm -rf --one-file-system "$T/home"
  # ---- While no daemon runs. (What the kernel shows by itself is taken away, so that it has to be mounted again.)
  for exchange in parent directory other; do
    own "$T/home/apps/lib"
    mnt "$ref" "$T/home/apps/lib"
    slay $(daemons)
    for mount in $(mounts_below "$T/home"); do umount -l "$mount"; done
    case $exchange in
      parent) as_user mv "$T/home/apps" "$T/home/old"; as_user ln -s "$T/victim" "$T/home/apps" ;;
      directory) as_user mv "$T/home/apps/lib" "$T/home/apps/old"; as_user ln -s "$T/victim/lib" "$T/home/apps/lib" ;;
      other) as_user mv "$T/home/apps/lib" "$T/home/apps/old"; as_user mkdir "$T/home/apps/lib" ;;
    esac
    # What the kernel shows and is not there was unmounted by somebody.
    [ "$mode" = kernel ] && listed='[]' || listed='["not mounted"]'
    same "$mode, $exchange: listed" "$listed" "$(ifs ls --json | field '[m["state"] for m in j]')"
    unharmed "$mode, $exchange"
    same "$mode, $exchange: mounts" "" "$(mounts_below "$T/home")"
    [ "$mode" = kernel ] || grep -q "mount_not_recovered directory=$T/home/apps/lib" "$RUN/daemon.log" || fail "nothing in the log"
    rm -rf --one-file-system "$T/home"
  done

  # ---- With a mount that is there: it goes where the rename takes it, and unmounting finds it and nothing else.
  own "$T/home/apps/lib"
  mnt "$ref" "$T/home/apps/lib"
  as_user mv "$T/home/apps" "$T/home/old"
  as_user ln -s "$T/victim" "$T/home/apps"
  mount -t tmpfs other "$T/victim/upper"
  ifs umount "$T/home/apps/lib"
  same "$mode: mounts" "" "$(mounts_below "$T/home")"
  umount "$T/victim/upper"
  unharmed "$mode: umount"
  rm -rf --one-file-system "$T/home"

  # ---- While it is being mounted.
  own "$T/home/apps/lib"
  touch "$T/go"
  # shellcheck disable=SC2016
  as_user bash -c 'while [ -e "$0/go" ]; do
    mv -T "$0/home/apps" "$0/home/old" && ln -s "$0/victim" "$0/home/apps" && rm "$0/home/apps" && mv -T "$0/home/old" "$0/home/apps"
  done' "$T" 2>/dev/null &
  racer=$!
  for _ in $(seq 40); do
    mnt "$ref" "$T/home/apps/lib" 2>/dev/null || true
    same "$mode, target: mounts over the victim's" "" "$(mounts_below "$T/victim")"
    ifs umount --all 2>/dev/null || true
  done
  rm "$T/go"
  wait $racer || true
  unharmed "$mode: race for a target"
  for mount in $(mounts_below "$T/home"); do umount -l "$mount"; done
  ifs umount --all
  rm -rf --one-file-system "$T/home"

  # ---- Links where `upper` and `work` go, and directories of the user's.
  for name in upper work; do
    for to in "$T/victim" "$T/victim/lib" "$T/victim/f" "$T/none" ../../victim; do
      own "$T/home/up"
      as_user ln -s "$to" "$T/home/up/$name"
      refuse 1 "home/up/$name: a symbolic link" ifs mount -q --mode "$mode" --rw --upper "$T/home/up" "$ref" "$M/w"
      same "$mode: left" "$name" "$(ls "$T/home/up")"
      unharmed "$mode: $name is a link"
      rm -rf "$T/home"
    done
    own "$T/home/up/$name"
    refuse 1 "home/up/$name .*another user" ifs mount -q --mode "$mode" --rw --upper "$T/home/up" "$ref" "$M/w"
    rm -rf "$T/home"
  done
  # A failed mount removes what it made and nothing that somebody has put in its place.
  own "$T/home/up"
  ln -s "$T/victim" "$T/home/up/sub"
  refuse 1 'is mounted there|symbolic|lies in' ifs mount -q --mode "$mode" --rw --upper "$T/home/up/sub/x" "$ref" "$ROOT/upper"
  unharmed "$mode: failed mount"
  rm -rf "$T/home"

  # ---- The race: `upper` is made by the daemon, and exchanged at once.
  cat >"$T/race.py" <<'PY'
import os, sys
directory, target = sys.argv[1:]
os.setgroups([]); os.setgid(1234); os.setuid(1234)
n = 0
while True:
    for name in ("upper", "work"):
        try:
            os.rename(f"{directory}/{name}", f"{directory}/away{n}")
            os.symlink(target, f"{directory}/{name}")
            n += 1
        except OSError:
            pass
PY
  own "$T/home/up"
  $PY "$T/race.py" "$T/home/up" "$T/victim/f" &
  racer=$!
  TEST_PIDS+=($racer)
  for _ in $(seq 60); do
    mnt --rw --upper "$T/home/up" "$ref" "$M/w" 2>/dev/null && ifs umount "$M/w"
    rm -rf "$T"/home/up/{upper,work}
    same "$mode, race: root's file" "600 0" "$(stat -c '%a %u' "$T/victim/f")"
  done
  slay $racer
  unharmed "$mode: race for an upper"
  ifs umount --all
  rm -rf "$T/home"

  # ---- The directory that was named stays as it was, and serves.
  mkdir "$T/shared"
  chmod 1777 "$T/shared"
  mnt --rw --upper "$T/shared" "$ref" "$M/w"
  same "$mode: mode of --upper" 1777 "$(stat -c %a "$T/shared")"
  echo x >"$M/w/new"
  ifs umount "$M/w"
  same "$mode: kept" x "$(cat "$T/shared/upper/new")"
  rm -rf "$T/shared"
done
nothing_left "$M"
ifs stop

# ---- Links that are there when a path is asked for: root's are followed, those of others are not.
own "$T/home"
mkdir "$T/real"
ln -s "$T/real" "$T/link"
as_user ln -s "$T/victim/lib" "$T/home/link"
refuse 1 'symbolic link of user 1234' ifs mount -q "$ref" "$T/home/link"
refuse 1 'symbolic link of user 1234' ifs mount -q --rw --upper "$T/home/link/up" "$ref" "$M/w"
unharmed "a user's link"
ifs mount -q --rw --upper "$T/link/up" "$ref" "$T/link" >/dev/null
same "through root's link" "$T/real" "$(mounts_below "$T/real")"
ifs umount "$T/link"
[ -d "$T/real/up/upper" ] || fail "no upper through root's link"
rm -rf "$T/home"
ifs stop

# ---- Paths that are none.
(
  cd "$M/x"
  for args in "mount $ref" umount status "pull --wait"; do
    refuse 2 'is empty' ifs $args ""
  done
  refuse 2 'is empty' ifs mount -q --rw --upper "" "$ref" "$M/w"
  refuse 2 'takes a value' ifs mount -q -o writable,upper= "$ref" "$M/w"
  refuse 2 'is empty' ifs --root "" ls
  refuse 2 'is empty' ifs --run "" ls
)
nothing_left "$M/x"
for path in /proc/self /proc/self/cwd /proc/1 /proc /dev/fd/0 /sys/kernel; do
  refuse 1 'proc|sysfs' ifs mount "$ref" "$path"
  refuse 1 'proc|sysfs' ifs mount --rw --upper "$path" "$ref" "$M/w"
done
same "/proc" 555 "$(stat -c %a /proc)"
long=$(printf 'x%.0s' $(seq 100000))
for args in "mount $ref" umount status "pull --wait"; do
  refuse 2 'more than a path may' ifs $args "/$long"
  [ "$(wc -c <"$T/err")" -lt 4096 ] || fail "a message of $(wc -c <"$T/err") bytes"
done
nothing_left "$M"
