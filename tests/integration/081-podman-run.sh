#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers of images that podman was lent: the tree is the one that podman itself unpacks, what is written stays where it
# should, many at once, and beside an image that podman pulled. In both presentations: the store on tmpfs, and without loop devices, makes it FUSE.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/podman.sh"
need_podman
start_registry registry
tools_image app one
push "$T/images/app" test/app:1
app=$REGISTRY/test/app:1
images="plain names whiteouts hardlinks xattrs special owners replace"
image $images
for name in $images; do push "$T/images/$name" "suite/$name:1"; done
# What podman makes of them itself, in a store that knows nothing of ours.
use_podman alone
sed -i '/additionalimagestores/d' "$T/podman/storage.conf"
for name in $images; do
  own_podman pull -q --tls-verify=false "$REGISTRY/suite/$name:1" >/dev/null
  mkdir -p "$T/theirs"
  cp -a "$(own_podman image mount "$REGISTRY/suite/$name:1")" "$T/theirs/$name"
  own_podman image umount "$REGISTRY/suite/$name:1" >/dev/null
done
mkdir "$T/tmpfs" && mount -t tmpfs tmpfs "$T/tmpfs"
one_of_many() { says "$app" sh -c "echo $1 >/word; cat /word /data/* | sha256sum; cat /word"; }

for presentation in $(modes); do
  if [ "$presentation" = fuse ]; then ROOT=$T/tmpfs/root; else ROOT=$T/kernel/root; fi
  export IMAGEFS_CONFIG=$T/config.toml
  printf '[mount]\nloop_devices = false\n' >"$IMAGEFS_CONFIG"
  RUN=$T/run-$presentation
  for name in $images; do ifs add -q "$REGISTRY/suite/$name:1" >/dev/null; done
  ifs add -q "$app" >/dev/null
  use_podman "$presentation"
  compgen -G "$RUN/chains/*.$presentation*" >/dev/null || fail "not shown by $presentation: $(ls "$RUN/chains")"

  # A container's tree, as podman has it, without a program in it being run.
  for name in $images; do
    id=$(own_podman --runtime runc create --pull never "$REGISTRY/suite/$name:1" /none)
    $PY "$LIB/tree.py" compare "$T/theirs/$name" "$(own_podman mount "$id")" "$T/images/$name.json" --loose-root || fail "$presentation: $name"
    own_podman umount "$id" >/dev/null
    own_podman --runtime runc rm "$id" >/dev/null
  done

  # What a container writes is its own, and lives as long as it does.
  run --name writer "$app" sh -c 'echo mine >/word; rm /data/7; mkdir /new; touch /new/file' || fail "a container that writes"
  same "another container" "one 100" "$(says "$app" sh -c 'cat /word; ls /data | wc -l')"
  same "what it changed" "A /new A /new/file C /data C /word D /data/7" \
    "$(own_podman diff writer | grep -E ' /(word|data|new)' | sort | tr '\n' ' ' | sed 's/ $//')"
  own_podman --runtime runc start -a writer 2>&1 | grep -q 'File exists' || fail "what it wrote is not there when it starts again"
  own_podman --runtime runc rm writer >/dev/null
  same "read-only" "Read-only status 2" "$(says --read-only "$app" sh -c 'echo x >/word' | grep -oE 'Read-only|status .*' | tr '\n' ' ' | sed 's/ $//')"
  same "as a user" "1000 one" "$(says --user 1000 "$app" sh -c 'id -u; cat /word')"
  run -d --name server "$app" sleep 1000 >/dev/null
  same "exec" one "$(own_podman --runtime runc exec server cat /word)"
  own_podman --runtime runc rm -f -t 0 server >/dev/null

  # Many at once.
  storm 8 one_of_many
  for i in $(seq 8); do
    same "container $i" "$(cat <(echo "$i") <($PY -c 'import random, sys
for k in sorted(map(str, range(100))): sys.stdout.buffer.write(random.Random(f"one {k}").randbytes(4000 + 137 * int(k)))') | sha256sum | cut -c1-64) - $i" \
      "$(tr -s ' ' <"$T/storm/$i")"
  done

  # Podman's own copy of the image beside ours: it is preferred, and goes without ours.
  own_podman pull -q --tls-verify=false "$app" >/dev/null
  same "two" 2 "$(own_podman images --noheading --filter reference="$app" | wc -l)"
  same "its own" one "$(says "$app")"
  own_podman rmi -f "$app" >/dev/null
  same "ours is left" one "$(says "$app")"
  same "and is listed" true "$(own_podman images --noheading --filter reference="$app" --format '{{.ReadOnly}}')"
  own_podman image prune -af >/dev/null
  same "after a prune" one "$(says "$app")"

  # A container that runs has its files, although the image goes.
  run -d --name lasting "$app" sleep 1000 >/dev/null
  ifs drop "$app" >/dev/null
  same "a container of it" one "$(own_podman --runtime runc exec lasting cat /word)"
  own_podman --runtime runc rm -f -t 0 lasting >/dev/null
  # Podman and the daemon agree without the daemon: what needs it is not offered while it is away.
  ifs stop
  if [ "$presentation" = kernel ]; then
    same "without a daemon" 8 "$(own_podman images -q | wc -l)"
  else
    same "without a daemon" 0 "$(own_podman images -q | wc -l)"
  fi
  ifs add --list >/dev/null
  same "with one" 8 "$(own_podman images -q | wc -l)"
  ifs drop $(names) >/dev/null
  same "mounts" "" "$(mounts_below "$RUN")"
  ifs stop
done
