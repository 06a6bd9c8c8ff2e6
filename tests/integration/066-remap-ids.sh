#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers in user namespaces (containerd 2): files of the image and of the container belong to the container's ids,
# by mounts that map them; nothing of the image is read or copied for that.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"'
need_containerd 2; need_kernel_mode
start_registry registry
start_shaper line
plain_host "$SHAPED"
layered_image app
publish app
ref=$SHAPED/test/app:1
store node
serve --config "$T/config.toml"
start_containerd two 2 imagefs
own_ctr -n test image pull --hosts-dir "$T/hosts" --snapshotter imagefs "$ref" >/dev/null
own_ctr -n test run -d --snapshotter imagefs --uidmap 0:100000:65536 --gidmap 0:200000:65536 --remap-labels "$ref" mapped \
  sh -c 'sleep 1000' 2>"$T/run.out" || { cat "$T/run.out"; fail "the container does not start"; }
inside() { own_ctr -n test task exec --exec-id "e$RANDOM" mapped sh -c "$1"; }
same "the container's ids" "$(printf '0 100000 65536')" "$(inside 'cat /proc/self/uid_map' | xargs)"
same "files of the image" "0 0 three" "$(inside 'stat -c "%u %g" /etc/motd; cat /etc/motd' | xargs)"
inside 'echo four >/etc/motd; chown 5:6 /etc/motd; touch /new'
same "files that it wrote" "5 6 four 0 0" "$(inside 'stat -c "%u %g" /etc/motd; cat /etc/motd; stat -c "%u %g" /new' | xargs)"
upper=$(ls -d "$ROOT"/snapshots/*/fs)
same "on the disk" "100005 200006 100000 200000" "$(stat -c '%u %g' "$upper/etc/motd" "$upper/new" | xargs)"
[ ! -e "$upper/data" ] || fail "the image was copied into the container"
same "not everything was fetched" true "$($PY -c "print('true' if $(sent app) < 4000000 else $(sent app))")"
own_ctr -n test task kill -s KILL mapped >/dev/null
wait_for 20 'own_ctr -n test task ls | grep -q "mapped.*STOPPED"'
own_ctr -n test task rm mapped >/dev/null; own_ctr -n test container rm mapped
own_ctr -n test image rm --sync "$ref" >/dev/null
wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay"
same "mounts" "" "$(mounts_below "$RUN")"
