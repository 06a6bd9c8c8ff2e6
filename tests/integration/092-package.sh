#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# The Debian package on a system with systemd: installed, its sockets start the daemon, fstab mounts at boot, the
# daemon comes back after all that can happen to it, upgrade, stop, removal and purge.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/boot.sh"
need_root; need_fuse; need lintian; need cpack
build=${TEST_BUILD:-$SOURCE/build/release}

# ---- the package itself
cpack --config "$build/CPackConfig.cmake" -B "$T/package" >"$T/cpack.out" 2>&1 || { cat "$T/cpack.out"; fail cpack; }
deb=$(echo "$T"/package/*.deb)
LC_ALL=C.UTF-8 lintian --allow-root --fail-on error,warning "$deb" >"$T/lintian.out" 2>&1 || { cat "$T/lintian.out"; fail lintian; }
# Every document is in it, and every link leads to one; the licence and the protocol are links out of their directory.
dpkg-deb -x "$deb" "$T/files"
install -D -m 644 "$SOURCE/LICENSE" "$T/files/usr/share/common-licenses/Apache-2.0"   # of base-files
documents=$T/files/usr/share/doc/imagefs
$PY "$TESTS/lint/links.py" --installed "$documents" || fail "links of the documents"
same "documents" "$(cd "$SOURCE" && find docs -name '*.md' -o -path docs/json-schema.json | sort)" "$(cd "$documents" && find docs -type f | sort)"
cmp "$SOURCE/proto/control.proto" "$documents/proto/control.proto"
same "the licence" ../../common-licenses/Apache-2.0 "$(readlink "$documents/LICENSE")"
boot_tree "$deb"
cp "$deb" "$T/tree/root/imagefs.deb"
# Only its order is of interest.
printf '[Service]\nExecStart=/bin/true\n' >"$T/tree/etc/systemd/system/containerd.service"
mkdir -p "$T/tree/var/lib/containerd"

start_registry registry
image plain owners
push "$T/images/plain" plain:1 >/dev/null
push "$T/images/owners" owners:1 >/dev/null
ref=$REGISTRY/plain:1
journal() { [ -z "${LEADER:-}" ] || inside journalctl --no-pager -q -n 60 -u 'imagefs*' -u 'srv-*' 2>/dev/null; }
journal_if_failed() { [ "${passed:-}" ] || journal; }
AT_END=(journal_if_failed "${AT_END[@]}")   # while it runs
# said UNIT REGEX: the journal has it. Not by a pipe: grep -q would break it.
said() { inside journalctl -q -u "$1" >"$T/journal" && grep -q "$2" "$T/journal"; }
# Their exit status says the same once more.
active() { { inside systemctl is-active "$@" || true; } | xargs; }
enabled() { { inside systemctl is-enabled "$@" || true; } | xargs; }
pid_of_service() { inside systemctl show -P MainPID imagefs.service; }
boot

# ---- installed
inside dpkg -i /root/imagefs.deb >"$T/dpkg.out" 2>&1 || { cat "$T/dpkg.out"; fail "dpkg -i"; }
same "sockets and service" "active active inactive inactive" \
  "$(active imagefs.socket imagefs-snapshotter.socket imagefs-cri.socket imagefs.service)"
same "enabled" "enabled enabled disabled disabled" \
  "$(enabled imagefs.socket imagefs-snapshotter.socket imagefs-cri.socket imagefs.service)"
for property in Wants After; do
  inside systemctl show -P $property containerd.service | grep -qw imagefs-snapshotter.socket ||
    fail "containerd.service: $property lacks the snapshotter's socket"
done
# What containerd 1.6 calls the directory of the images.
for _ in 1 2; do inside systemctl restart containerd.service || fail "the drop-in keeps containerd from starting"; done
same "the directory of images" /var/lib/imagefs "$(inside readlink /var/lib/containerd/io.containerd.snapshotter.v1.imagefs)"
same "mode of the run directory" 711 "$(inside stat -c %a /run/imagefs)"
same "mode of the sockets" "600 600" "$(inside stat -c %a /run/imagefs/control.sock /run/imagefs/snapshotter.sock | xargs)"

# The first command starts it.
same "mounts" "[]" "$(inside imagefs ls --json)"
same "the service" active "$(active imagefs.service)"
same "the daemon is the service" "$(pid_of_service)" "$(inside imagefs status --json | field 'j["pid"]')"
same "passed sockets" 2 "$(inside journalctl -q -u imagefs.service | grep -cE 'listening socket=(control|snapshotter) passed=yes')"
daemon=$(pid_of_service)
same "its mount namespace is everybody's" "$(inside readlink /proc/1/ns/mnt)" "$(inside readlink "/proc/$daemon/ns/mnt")"
same "no new privileges, a filter" "1 2" \
  "$(inside awk '/^NoNewPrivs:/ {n = $2} /^Seccomp:/ {s = $2} END {print n, s}' "/proc/$daemon/status")"
# Of /etc/default/imagefs, which says only what could be set.
same "its environment" "" "$(inside cat "/proc/$daemon/environ" | tr '\0' '\n' | grep -iE 'proxy|IMAGEFS_C' || true)"
inside grep -q '^#NO_PROXY=' /etc/default/imagefs || fail "no /etc/default/imagefs"
inside sed -i 's/^#\(NO_PROXY=\)/\1/' /etc/default/imagefs
inside systemctl restart imagefs.service
daemon=$(pid_of_service)
same "its environment" NO_PROXY=localhost,127.0.0.1,.cluster.local \
  "$(inside cat "/proc/$daemon/environ" | tr '\0' '\n' | grep -iE 'proxy|IMAGEFS_C' || true)"
same "HOME of credential helpers" HOME=/root "$(inside cat "/proc/$daemon/environ" | tr '\0' '\n' | grep ^HOME=)"

# A child has what a credential helper needs: a home to write to, the resolver, programs of its own. It has not got
# what nobody here needs.
cat >"$T/tree/root/helper" <<'SH'
#!/bin/sh
set -ex
echo token >"$HOME/.helper-token"
getent ahosts 127.0.0.1
perl -e 'print qx(echo child)' | grep -q child
if unshare -n true; then exit 1; fi
SH
chmod 755 "$T/tree/root/helper"
inside mkdir -p /run/systemd/system/imagefs.service.d
inside sh -c 'printf "[Service]\nExecStartPost=/root/helper\n" >/run/systemd/system/imagefs.service.d/test.conf'
inside systemctl daemon-reload
inside systemctl restart imagefs.service || { journal; fail "a child of the daemon"; }
[ -s "$T/tree/root/.helper-token" ] || fail "the helper did not run"
inside rm -r /run/systemd/system/imagefs.service.d /root/helper
inside systemctl daemon-reload

# ---- mounts of every kind work within the unit's limits
inside mkdir -p /mnt/a /mnt/fuse /mnt/mapped /mnt/rw
inside imagefs mount -q "$ref" /mnt/a
mode=$(inside imagefs ls --json | field 'j[0]["mode"]')
inside imagefs mount -q --mode fuse "$ref" /mnt/fuse
inside grep -q root /mnt/fuse/etc/passwd
inside imagefs mount -q --rw "$ref" /mnt/rw
inside sh -c 'echo new >/mnt/rw/new; chown 5:6 /mnt/rw/new; chmod 6755 /mnt/rw/new; rm /mnt/rw/etc/passwd; mknod /mnt/rw/null c 1 3; mkdir /mnt/rw/d'
same "owner and mode" "5 6 6755" "$(inside stat -c '%u %g %a' /mnt/rw/new)"
if [ "$mode" = kernel ]; then
  inside imagefs mount -q --map-uids 0:100000:65536 "$ref" /mnt/mapped
  same "mapped owner" 100000 "$(inside stat -c %u /mnt/mapped/etc/passwd)"
else
  echo "NOT TESTED: kernel mode: $(journal | grep kernel_presentation_unavailable)" >&2
fi
inside umount /mnt/rw /mnt/a
inside imagefs umount --all
same "mounts" "[]" "$(inside imagefs ls --json)"

# ---- fstab
inside mkdir -p /srv/a /srv/f /srv/auto
cat >"$T/tree/etc/fstab" <<FSTAB
$ref /srv/a imagefs _netdev,nofail,nodev,x-systemd.requires=imagefs.socket 0 0
$ref /srv/f imagefs _netdev,nofail,mode=fuse,x-systemd.requires=imagefs.socket 0 0
$ref /srv/auto imagefs _netdev,nofail,noauto,x-systemd.automount,x-systemd.requires=imagefs.socket 0 0
FSTAB
inside systemctl daemon-reload
inside systemctl start srv-a.mount srv-f.mount
both() { [ "$(active srv-a.mount srv-f.mount)" = "active active" ] && inside grep -q root /srv/a/etc/passwd /srv/f/etc/passwd; }
both || fail "fstab: $(active srv-a.mount srv-f.mount)"
inside findmnt -n -o VFS-OPTIONS /srv/a | grep -qw nodev || fail "no nodev"
# At the first access, where only systemd's mount(8) may pass until it is mounted.
inside systemctl start srv-auto.automount
inside grep -q root /srv/auto/etc/passwd || fail "automount: $(said srv-auto.mount . || true)"
same "mounted by automount" '["/srv/auto"]' "$(inside imagefs ls --json /srv/auto | field '[m["directory"] for m in j]' | tr -d ' ')"
inside systemctl stop srv-auto.automount srv-auto.mount
wait_for 20 '! inside imagefs ls /srv/auto >/dev/null 2>&1' || fail "still listed after automount"
# A service with mounts of its own mounts for itself.
inside mkdir -p /srv/private
inside systemd-run -q --wait -p PrivateMounts=yes sh -c "imagefs mount -q $ref /srv/private && grep -q root /srv/private/etc/passwd" ||
  fail "PrivateMounts"
! inside test -e /srv/private/etc || fail "a private mount is seen by all"
wait_for 30 '! inside imagefs ls /srv/private >/dev/null 2>&1' || fail "listed after the end of its namespace"
inside systemctl stop srv-f.mount
wait_for 20 '[ "$(inside imagefs ls --json | field "[m[\"directory\"] for m in j]")" = "[\"/srv/a\"]" ]' || fail "still listed"
inside systemctl start srv-f.mount

# ---- restarts: commands are not refused meanwhile, mounts are there afterwards
restarted() { local now; now=$(pid_of_service); [ "$now" != 0 ] && [ "$now" != "$daemon" ] && both; }
client() { until [ -e "$T/done" ]; do inside imagefs images --json >/dev/null || return 1; done; }
clients() { rm -f "$T/done"; client & client=$!; }
no_refusal() { touch "$T/done"; wait $client || fail "a command was refused"; }
# Whoever reads the mount that the daemon answers for sees a pause and nothing else: systemd keeps its descriptor.
tee "$T/tree/root/reader" >/dev/null <<'READER'
want=$(sha256sum </srv/f/usr/lib/big)
until [ -e /root/stop ]; do
  sum=$(sha256sum </srv/f/usr/lib/big) && [ "$sum" = "$want" ] || echo "another sum: $sum"
  echo read >>/root/reads
done
READER
inside sh /root/reader >"$T/reader.said" 2>&1 & reader=$!
shown=$(inside stat -c %d /srv/f)
uncached() { until [ -e "$T/done" ]; do echo 1 >/proc/sys/vm/drop_caches; sleep 0.3; done; }
wait_for 20 '[ -e "$T/tree/root/reads" ]' || fail "the reader reads nothing: $(cat "$T/reader.said")"
rm -f "$T/done"
uncached & dropper=$!
clients
for how in restart kill stop; do
  daemon=$(pid_of_service)
  case $how in
    restart) inside systemctl restart imagefs.service ;;
    kill) inside systemctl kill -s KILL imagefs.service ;;
    stop) inside imagefs stop ;;
  esac
  wait_for 30 restarted || fail "after $how: pid $(pid_of_service), was $daemon; mounts $(active srv-a.mount srv-f.mount)"
done
no_refusal
wait $dropper
touch "$T/tree/root/stop"
wait $reader || fail "the reader ended: $(cat "$T/reader.said")"
same "what the reader met" "" "$(cat "$T/reader.said")"
same "the file system that it read" "$shown" "$(inside stat -c %d /srv/f)"
same "restarts by systemd" 2 "$(inside systemctl show -P NRestarts imagefs.service)"

# One that hangs is started again.
mkdir -p "$T/tree/run" && inside mkdir -p /run/systemd/system/imagefs.service.d
inside sh -c 'printf "[Service]\nWatchdogSec=2\n" >/run/systemd/system/imagefs.service.d/test.conf'
inside systemctl daemon-reload
inside systemctl restart imagefs.service
daemon=$(pid_of_service)
inside systemctl kill -s STOP --kill-whom=main imagefs.service
wait_for 60 restarted || fail "the watchdog does nothing"
said imagefs.service 'Watchdog timeout' || fail "another reason than the watchdog"
inside rm -r /run/systemd/system/imagefs.service.d
inside systemctl daemon-reload

# ---- the same package again is an upgrade: the daemon is a new one, the mounts stay
daemon=$(pid_of_service) shown=$(inside stat -c %d /srv/f)
inside sh -c 'echo "# mine" >>/etc/imagefs/config.toml'
inside dpkg -i --force-confold /root/imagefs.deb >"$T/dpkg.out" 2>&1 || { cat "$T/dpkg.out"; fail "upgrade"; }
wait_for 30 restarted || fail "the upgrade does not restart the daemon"
same "the file system that was shown" "$shown" "$(inside stat -c %d /srv/f)"
inside grep -q '# mine' /etc/imagefs/config.toml || fail "the upgrade took the configuration"
inside grep -q '^NO_PROXY=' /etc/default/imagefs || fail "the upgrade took the environment"

# ---- boot: fstab's mounts are made by the daemon that the first of them starts
shut_down
boot
wait_for 30 both || fail "after a boot: $(active srv-a.mount srv-f.mount)"
same "mounts" 2 "$(inside imagefs ls --json | field 'len(j)')"
# Another image there now: nobody brings the old one back.
sed -i "s#^$ref /srv/f#$REGISTRY/owners:1 /srv/f#" "$T/tree/etc/fstab"
shut_down
boot
wait_for 30 '[ "$(active srv-a.mount srv-f.mount)" = "active active" ]' || fail "after a change of fstab: $(active srv-f.mount)"
same "the new image" "$REGISTRY/owners:1" "$(inside imagefs ls --json | field '[m["reference"] for m in j if m["directory"] == "/srv/f"][0]')"

# ---- stopped
inside systemctl stop imagefs.socket imagefs-snapshotter.socket imagefs.service
same "stopped" "inactive inactive inactive" "$(active imagefs.socket imagefs-snapshotter.socket imagefs.service)"
same "stopping the socket stops what requires it" "inactive inactive" "$(active srv-a.mount srv-f.mount)"
inside systemctl start imagefs.socket imagefs-snapshotter.socket
inside imagefs mount -q "$ref" /mnt/a
inside imagefs mount -q --mode fuse "$ref" /mnt/fuse
inside imagefs mount -q --rw "$ref" "/mnt/rw"
inside mkdir "/mnt/a b"
inside imagefs mount -q "$ref" "/mnt/a b"

# ---- removed: what the kernel shows stays, the configuration and the store, too
inside dpkg -r imagefs >"$T/dpkg.out" 2>&1 || { cat "$T/dpkg.out"; fail "dpkg -r"; }
inside sh -c '! grep -qx imagefsd /proc/[0-9]*/comm && [ ! -e /usr/bin/imagefs ] && [ ! -e /usr/sbin/mount.imagefs ]' || fail "not removed"
same "sockets" "inactive inactive" "$(active imagefs.socket imagefs-snapshotter.socket)"
[ "$mode" != kernel ] || inside grep -q root /mnt/a/etc/passwd || fail "a kernel mount went with the package"
inside sh -c '[ -d /var/lib/imagefs ] && [ -e /etc/imagefs/config.toml ] && [ -e /etc/default/imagefs ]' || fail "the store or the configuration is gone"

# ---- purged
inside dpkg -P imagefs >"$T/dpkg.out" 2>&1 || { cat "$T/dpkg.out"; fail "dpkg -P"; }
! grep -q 'still mounted' "$T/dpkg.out" || { cat "$T/dpkg.out"; fail "still mounted"; }
same "mounts" "" "$(inside grep -E ' - (erofs|fuse\.imagefs|overlay) ' /proc/self/mountinfo || true)"
same "files" "" "$(inside find / -xdev -name '*imagefs*' -not -path '/proc/*' -not -path '/root/*' -not -path '/tmp/*' \
  -not -path '/var/log/*' -not -path '/run/systemd/*' | sort | xargs)"
shut_down
passed=1
