#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Containers whose bytes are not here yet: an image with a published index is given to podman at once, what containers read
# is fetched once, whoever reads it, and a daemon that is killed, a registry that is away and layers that are lost lose
# nothing that was here.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/podman.sh"
. "$(dirname "$0")/../lib/lazy.sh"
configure '[fill]' 'background = false' '[podman]' 'lazy = "repository"' '[mount]' 'loop_devices = false'
need_podman
start_registry registry
start_shaper line
tools_image app one
push "$T/images/app" test/app:1
publish app
total=$(cat "$T/images/app"/blobs/sha256/* | wc -c)
app=$SHAPED/test/app:1
all=$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(100))): h.update(random.Random(f"one {k}").randbytes(4000 + 137 * int(k)))
print(h.hexdigest())')
listing() { ifs add --list --json | field "j['images'][0]['$1']"; }
less() { [ "$2" -lt "$3" ] || fail "$1: $2 of $3"; }
reader() { says "$app" sh -c 'cat /data/* | sha256sum' | cut -d' ' -f1; }
# The daemon ends that way; a command starts the next one.
restart() {
  kill -"$1" "$(daemons)"
  wait_for 20 '[ -z "$(daemons)" ]' || fail "the daemon does not end"
}
mkdir "$T/tmpfs" && mount -t tmpfs tmpfs "$T/tmpfs"

for presentation in $(modes); do
  store "$presentation"
  [ "$presentation" = kernel ] || ROOT=$T/tmpfs/root
  use_podman "$presentation"
  forget_requests
  ifs add -q --json "$app" >"$T/added.json"
  same "state" filling "$(field 'j["images"][0]["state"]' <"$T/added.json")"
  same "bytes of layers for it" 0 "$(sent app)"
  same "here" 0 "$(listing blob_bytes_present)"
  compgen -G "$RUN/chains/*.$presentation*" >/dev/null || fail "not shown by $presentation"
  # What podman says of it needs none either.
  own_podman images >/dev/null
  own_podman image inspect "$app" >/dev/null
  same "bytes after podman looked at it" 0 "$(sent app)"
  id=$(own_podman --runtime runc create --pull never "${CONTAINER[@]}" "$app" sh -c 'cat /data/* | sha256sum')
  find "$(own_podman mount "$id")" -printf '%p %s %m\n' >"$T/tree"
  grep -q 'data/99 ' "$T/tree" || fail "its tree"
  same "bytes after a walk" 0 "$(sent app)"
  own_podman umount "$id" >/dev/null

  same "a small program" one "$(says "$app")"
  first=$(sent app)
  less "bytes of the first container" "$first" $((total * 9 / 10))
  [ "$first" -gt 0 ] || fail "it ran without a byte"
  same "again" one "$(says "$app")"
  same "bytes of the second container" "$first" "$(sent app)"
  here=$(listing blob_bytes_present)  # spans share bytes at their edges
  [ "$here" -lt $((first + 100)) ] && [ "$here" -gt $((first - 100)) ] || fail "here: $here, sent: $first"

  # Killed while bytes are missing. The next daemon goes on, and asks for nothing again.
  restart KILL
  same "state" filling "$(listing state)"
  same "bytes of the start" "$first" "$(sent app)"
  same "after a kill" one "$(says "$app")"
  same "bytes after the kill" "$first" "$(sent app)"
  # What needs the daemon is not offered while it is away.
  restart TERM
  same "what podman has" "" "$(listed)"

  # Without a registry it is there again, too; what is missing cannot be read.
  registry_dies
  configure '[fill]' 'background = false' 'deadline = "2s"' '[podman]' 'lazy = "repository"' '[mount]' 'loop_devices = false'
  ifs add --list >/dev/null
  same "what podman has" "$app" "$(listed)"
  same "without a registry" one "$(says "$app")"
  says "$app" cat /data/5 | grep -q 'Input/output error' || fail "what is missing can be read"
  registry_returns
  restart TERM
  configure '[fill]' 'background = false' '[podman]' 'lazy = "repository"' '[mount]' 'loop_devices = false'
  ifs add --list >/dev/null

  # Everything, by many at once.
  for i in $(seq 6); do reader >"$T/sum.$i" & readers[$i]=$!; done
  for i in $(seq 6); do wait "${readers[$i]}"; same "reader $i" "$all" "$(cat "$T/sum.$i")"; done
  same "the container made before" "$all" "$(own_podman --runtime runc start -a "$id" | cut -d' ' -f1)"
  own_podman --runtime runc rm "$id" >/dev/null
  lazy once "$SHAPER/requests" "$T/images/app" || fail "bytes came twice"
  # An empty layer is still missing, which nobody reads.
  ifs pull -q "$app" >/dev/null
  ifs rm "$app" >/dev/null
  same "state" complete "$(listing state)"
  same "here" "$(listing blob_bytes)" "$(listing blob_bytes_present)"
  # Complete: the kernel needs no daemon for it.
  restart TERM
  if [ "$presentation" = kernel ]; then same "without a daemon" "$all" "$(reader)"; else same "without a daemon" "" "$(listed)"; fi

  # Layers that a crash of the machine took come again by themselves.
  ifs add --list >/dev/null
  ifs stop --unmount
  rm -r "$ROOT"/layers/*
  shape reset >/dev/null; : >"$SHAPER/requests"
  ifs add --list >/dev/null
  wait_for 20 '[ "$(listing state)" = filling ]' || fail "not fetched again: $(ifs add --list)"
  same "what podman has" "$app" "$(listed)"
  same "after the loss" "$all" "$(reader)"
  ifs stop --unmount
  rm -r "$ROOT"/layers/*
  registry_dies
  same "state" missing "$(listing state)"
  same "what podman has" "" "$(listed)"
  same "here" 0 "$(listing blob_bytes_present)"
  wait_for 30 'log_says "podman.image_missing .*name=$app"' || fail "the log does not say it"
  registry_returns
  ifs add -q "$app" >/dev/null
  same "added again" one "$(says "$app")"

  ifs drop "$app" >/dev/null
  same "mounts" "" "$(mounts_below "$RUN")"
  ifs stop
done

# After a quiet moment the rest comes by itself, under a container that runs.
configure '[fill]' 'quiet = "100ms"' '[podman]' 'lazy = "repository"' '[mount]' 'loop_devices = false'
store background
use_podman background
ifs add -q "$app" >/dev/null
run -d --name lasting "$app" sleep 1000 >/dev/null
wait_for 30 '[ "$(listing state)" = complete ]' || fail "nothing comes by itself"
same "the container that runs" "$all" "$(own_podman --runtime runc exec lasting sh -c 'cat /data/* | sha256sum' | cut -d' ' -f1)"
# It was shown while it filled; now that it is whole, it outlives the daemon.
restart TERM
[ "$(modes | tail -1)" != kernel ] || same "another one without a daemon" "$all" "$(reader)"
own_podman --runtime runc rm -f -t 0 lasting >/dev/null
