#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A daemon in a mount namespace of its own, as in a container, whose mounts the machine does not see, says so in its log
# and in `status`; one whose mounts are seen says nothing, and they are.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
stores=0
ids() { cut -d' ' -f1 "$1" | sort; }
[ -n "$(comm -12 <(ids /proc/self/mountinfo) <(ids /proc/1/mountinfo 2>/dev/null))" ] ||
  skip "this shell is not in the mount namespace of the first process"
image plain

# What a machine has: a run directory in a file system that is shared.
H=$T/machine RUN=$T/container/run
mkdir -p "$H" "$T/container"
mount -t tmpfs machine "$H"
mount --make-shared "$H"
mkdir -m 711 "$H/run" "$RUN"
mkdir -m 700 "$H/run/chains" "$H/run/mapped"

# contained COMMANDS [OPTION...]: a daemon in a namespace that these commands have prepared.
contained() {
  ROOT=$T/root.$((++stores))
  unshare -m --propagation unchanged "${@:2}" bash -euc "$1"'
    exec "$0d" --root "$1" --run "$2" daemon' "$IMAGEFS" "$ROOT" "$RUN" >"$T/daemon.out" 2>&1 &
  TEST_PIDS+=($!)
  wait_for 20 "in_it '$IMAGEFS' --root '$ROOT' --run '$RUN' status >/dev/null 2>&1" || { cat "$T/daemon.out"; fail "it does not start"; }
}
inside() { daemons | head -1; }
in_it() { nsenter -t "$(inside)" -m -p -- timeout -k 5 60 "$@"; }
warned() { in_it "$IMAGEFS" --root "$ROOT" --run "$RUN" status --json | field '" ".join(w.split(":")[0].rsplit("/", 1)[1] for w in j["warnings"])'; }
logged() { { grep -o "mounts_not_visible directory=[^ ]*" "$T/daemon.out" || true; } | sed "s@.*/@@" | xargs; }
ended() { kill -TERM $(daemons); wait "${TEST_PIDS[-1]}" || true; }

volumes="mount --bind '$H/run' '$RUN'; mount --make-rprivate '$RUN'"
own="$volumes; for d in chains mapped; do mount --rbind '$H/run'/\$d '$RUN'/\$d; done"

# Neither directory is shared.
contained "$volumes"
same "private: status" "chains mapped" "$(warned)"
same "private: log" "chains mapped" "$(logged)"
in_it "$IMAGEFS" --root "$ROOT" --run "$RUN" status >"$T/out"
grep -q '^warning: .*/chains: .* not visible .*mountPropagation: Bidirectional' "$T/out" || { head "$T/out"; fail "no text"; }
ended

# The run directory is shared as a whole: the daemon keeps what it mounts in `chains` for itself.
contained "mount --bind '$H/run' '$RUN'"
same "as a whole: status" chains "$(warned)"
same "as a whole: log" chains "$(logged)"
ended

# The same with processes of its own, the daemon being the first.
contained "$volumes" --pid --fork --mount-proc
same "the first process: status" "chains mapped" "$(warned)"
ended

# A volume for each: nothing to say, and the machine sees the tree.
for options in "" "--pid --fork --mount-proc"; do
  contained "$own" $options
  same "own volumes: status" "" "$(warned)"
  same "own volumes: log" "" "$(logged)"
  in_it "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q --mode fuse "oci:$T/images/plain" "$M" >/dev/null
  same "what the machine sees" 1 "$(ls "$H"/run/chains/*/etc/passwd | wc -l)"
  in_it "$IMAGEFS" --root "$ROOT" --run "$RUN" umount "$M"
  wait_for 10 "[ -z \"\$(mounts_below '$H/run')\" ]" || fail "the machine still has $(mounts_below "$H/run")"
  ended
done

# On the machine itself private mounts are right.
RUN=$H/own
mkdir -m 711 "$RUN"
ifs mount -q --mode fuse "oci:$T/images/plain" "$M" >/dev/null
same "on the machine" "[]" "$(ifs status --json | field 'j["warnings"]')"
# The next daemon goes on with it, though the run directory is shared and the kernel serves nothing alone.
shown=$(stat -c %d "$M")
exec {open}<"$M/etc/passwd"
ifs stop
ifs images >/dev/null
same "the file system that was shown" "$shown" "$(stat -c %d "$M")"
grep -q root <&$open || fail "an open file is lost"
exec {open}<&-
ifs umount "$M"
ifs stop
