#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The entry of the container image with the shell that is in it: containerd's drop-in and the line that imports it come
# and go, and nothing else changes; a containerd that would lose a setting, or does not take the drop-in, gets neither.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
need busybox
need_containerd 1; need_containerd 2
etc=$T/etc
mkdir -p "$etc" "$T/containerd"
: >"$T/restarts"
node() {  # node CONTAINERD VERB [NAME=VALUE...]
  env "${@:3}" HOST= IMAGEFS_ROOT="$ROOT" IMAGEFS_RUN="$RUN" CONTAINERD_CONFIG_DIR="$etc" CONTAINERD_ROOT="$T/containerd" \
    CONTAINERD_CHECK="$1 --config $etc/config.toml config dump" CONTAINERD_RESTART="echo restart >>$T/restarts" \
    PATH="$(dirname "$IMAGEFS"):$PATH" busybox sh "$SOURCE/packaging/kubernetes/imagefs-node" "$2" >"$T/out" 2>&1
}
newer=$PEER_CONTAINERD/usr/bin/containerd older=$(command -v containerd)
restarts() { wc -l <"$T/restarts"; }

# Configurations as nodes have them: what must be the same again after `remove`.
configs() {
  printf 'none\n'
  printf 'tables\nversion = 3\n[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]\n  SystemdCgroup = true\n'
  printf 'empty-imports\nversion = 3\nimports = []\nroot = "/elsewhere"\n[debug]\n  level = "info"\n'
  printf 'imported\nversion = 3\nimports = ["%s/conf.d/*.toml"]\n[debug]\n  level = "info"\n' "$etc"
  printf 'lines\nversion = 3\nimports = [ # many\n  "%s/conf.d/*.toml",\n]\n' "$etc"
}
for name in none tables empty-imports imported lines; do
  rm -rf "$etc" && mkdir "$etc"
  configs | awk -v name=$name '/^(none|tables|empty-imports|imported|lines)$/ { on = $0 == name; next } on' >"$etc/config.toml"
  [ $name != none ] || rm "$etc/config.toml"
  cp -r "$etc" "$T/before.$name"
  : >"$T/restarts"
  if [ $name = none ]; then echo 'version = 3' >"$etc/config.toml"; fi   # containerd reads no file that is not there
  cp "$etc"/config.toml "$T/original"
  node "$newer" install || { cat "$T/out"; fail "$name: install"; }
  same "$name: restarts" 1 "$(restarts)"
  "$newer" --config "$etc/config.toml" config dump >"$T/dump" 2>/dev/null
  grep -q "runtimes.imagefs\]" "$T/dump" && grep -q "runtime_platforms.imagefs\]" "$T/dump" || fail "$name: no runtime in containerd's configuration"
  same "$name: snapshotters to unpack for" "imagefs overlayfs" \
    "$(grep -A4 "v1.local'.unpack_config" "$T/dump" | sed -n "s/ *snapshotter = '\(.*\)'/\1/p" | sort | xargs)"
  case $name in tables) grep -q 'SystemdCgroup = true' "$T/dump" ;; *) : ;; esac || fail "$name: settings"
  node "$newer" install
  same "$name: restarts by a second install" 1 "$(restarts)"
  same "the link" "$ROOT" "$(readlink "$T/containerd/io.containerd.snapshotter.v1.imagefs")"
  node "$newer" remove FORCE=yes || { cat "$T/out"; fail "$name: remove"; }
  diff "$T/original" "$etc/config.toml" || fail "$name: the configuration is not what it was"
  same "$name: files" config.toml "$(echo $(ls "$etc"))"
  same "$name: restarts in the end" 2 "$(restarts)"
  [ ! -L "$T/containerd/io.containerd.snapshotter.v1.imagefs" ] || fail "the link is left"
done
same "modes" "700 711 700 700" "$(stat -c %a "$ROOT" "$RUN" "$RUN/chains" "$RUN/mapped" | xargs)"

# Refused, and nothing changed.
refused() {  # refused REGEX CONTAINERD [NAME=VALUE...]
  cp "$etc/config.toml" "$T/original"
  : >"$T/restarts"
  ! node "$2" install "${@:3}" || fail "it is not refused: $1"
  grep -qE "$1" "$T/out" || { cat "$T/out"; fail "it does not say $1"; }
  diff "$T/original" "$etc/config.toml" || fail "the configuration is another one: $1"
  [ ! -e "$etc/conf.d/imagefs.toml" ] || fail "the drop-in is left: $1"
  same "restarts" 0 "$(restarts)"
}
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "my/pause:1"\n' >"$etc/config.toml"
refused 'too old to have a snapshotter for a class' "$older"
# A newer one that reads a file of version 2 would lose settings of the files that it imports into.
refused 'would lose settings .*my/pause:1.*config migrate' "$newer"
node "$older" install CONTAINERD_DROP_IN=none || { cat "$T/out"; fail "without a drop-in"; }
printf 'version = 3\nimports = ["/etc/other/*.toml"]\n' >"$etc/config.toml"
refused 'imports lacks .*conf.d' "$newer"
printf 'version = 3\nnonsense\n' >"$etc/config.toml"
refused "configuration cannot be read" "$newer"
printf 'version = 3\n' >"$etc/config.toml"
refused 'CONTAINERD_DROP_IN=some is not known' "$newer" CONTAINERD_DROP_IN=some

# `plugin` has the snapshotter only, in a form that each version takes.
node "$newer" install CONTAINERD_DROP_IN=plugin || { cat "$T/out"; fail "plugin"; }
! grep -q runtimes "$etc/conf.d/imagefs.toml" || fail "plugin: runtimes"
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "my/pause:1"\n' >"$etc/config.toml"
rm -r "$etc/conf.d"
node "$older" install CONTAINERD_DROP_IN=plugin || { cat "$T/out"; fail "plugin, 1.6"; }
"$older" --config "$etc/config.toml" config dump >"$T/dump"
grep -q 'sandbox_image = "my/pause:1"' "$T/dump" && grep -q "$RUN/snapshotter.sock" "$T/dump" || fail "plugin, 1.6: settings"

# The daemon is not started without a holder.
! timeout 20 busybox sh -c "exec env HOST= IMAGEFS_ROOT=$ROOT IMAGEFS_RUN=$RUN timeout 3 busybox sh $SOURCE/packaging/kubernetes/imagefs-node run" 2>/dev/null ||
  fail "a daemon without a holder"
