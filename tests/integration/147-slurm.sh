#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# docs/hpc.md with a real Slurm of one node, whose jobs have mount namespaces and /tmp of their own: the prolog mounts the
# site's image as root, jobs of users read it, 64 tasks at once too, and the epilog unmounts it; a job reaches an image by
# autofs; a job mounts one by itself, without root, and nothing of that is left when it ends, or is cancelled.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse; need fusermount3; need setpriv; need unshare
need bwrap; need slurmctld; need slurmd; need srun; need scancel
[ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid"
# Mounts propagate as where systemd booted. All on one processor: Linux 6.18 numbers namespaces by processor, and refuses
# ("ns base mount failed") that slurmd keeps one whose number is below that of its own.
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  exec env IMAGEFS_TEST_NAMESPACE=1 taskset -c "$(taskset -pc $$ | grep -oE '[0-9]+' | tail -n 1)" unshare -m --propagation private "$0"
fi
mount --make-rshared /
open_fuse
# Jobs do not see this machine's /tmp, where $T may be.
mount -t tmpfs node /mnt
mkdir /mnt/{state,spool,images,jobs,sbin,sbin/upper,sbin/work,layouts}
home='' uid=''
user_home /mnt/home
mkdir "$home/run"
chown "$uid:$uid" "$home/run"

$PY - "$LIB" "$T/images/app" <<'P'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "ls", "sha256sum"]).dir("proc").dir("dev").dir("tmp").file("word", b"one\n")
data = Tar().dir("data")
for k in range(50):
    data.file(f"data/{k}", random.Random(f"slurm {k}").randbytes(4000 + 1370 * k))
simple_image(sys.argv[2], [tools, data])
P
start_registry registry
push "$T/images/app" test/app:1
publish app
start_shaper line --rtt 2
app=$SHAPED/test/app:1
sums=$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(50))): h.update(random.Random(f"slurm {k}").randbytes(4000 + 1370 * int(k)))
print(h.hexdigest())')
ROOT=/mnt/root RUN=/mnt/run
cp "$T/config.toml" /mnt/config.toml
export IMAGEFS_CONFIG=/mnt/config.toml

# ---- a cluster of one node
node=imagefs$$  # of its name is the control group, in which nobody else's processes are
ports=$($PY -c 'import socket
all = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[s.getsockname()[1] for s in all])')
# Of a job, only control groups know all processes. Those of version 1 need nothing else; version 2 would need systemd.
tracked=proctrack/linuxproc
[ ! -w /sys/fs/cgroup/freezer/tasks ] || tracked=proctrack/cgroup
cat >/mnt/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${ports% *}
SlurmdPort=${ports#* }
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=$tracked
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
StateSaveLocation=/mnt/state
SlurmdSpoolDir=/mnt/spool
SlurmctldPidFile=/mnt/slurmctld.pid
SlurmdPidFile=/mnt/slurmd.pid
SlurmctldLogFile=$T/slurmctld.log
SlurmdLogFile=$T/slurmd.log
SlurmdParameters=config_overrides
JobContainerType=job_container/tmpfs
PrologFlags=Alloc,Contain
Prolog=/mnt/prolog
Epilog=/mnt/epilog
KillWait=2
NodeName=$node NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=64 State=UNKNOWN
PartitionName=all Nodes=$node Default=YES State=UP
CONF
printf 'AutoBasePath=true\nBasePath=/mnt/jobs\n' >/mnt/job_container.conf
echo 'CgroupPlugin=cgroup/v1' >/mnt/cgroup.conf
# As in docs/hpc.md.
cat >/mnt/prolog <<SH
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin IMAGEFS_CONFIG=/mnt/config.toml; export PATH IMAGEFS_CONFIG
dir=/mnt/images/\$SLURM_JOB_ID
mkdir -p "\$dir" && timeout 100 $IMAGEFS --root $ROOT --run $RUN mount -q $app "\$dir" >>$T/prolog.log 2>&1 ||
  logger -t imagefs "job \$SLURM_JOB_ID has no image"
exit 0
SH
cat >/mnt/epilog <<SH
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
dir=/mnt/images/\$SLURM_JOB_ID
timeout 100 $IMAGEFS --root $ROOT --run $RUN umount --lazy "\$dir" >>$T/prolog.log 2>&1
rmdir "\$dir"
exit 0
SH
chmod 755 /mnt /mnt/prolog /mnt/epilog
export SLURM_CONF=/mnt/slurm.conf
# The daemon is the node's, not the prolog's.
ifs ls >/dev/null
slurmctld -D >"$T/slurmctld.out" 2>&1 &
controller=$!
slurmd -D >"$T/slurmd.out" 2>&1 &
slurmd=$!
end_slurm() {
  local group=/sys/fs/cgroup/freezer/slurm_$node
  timeout 10 scancel -u nobody
  slay $controller $slurmd $(find "$group" -name cgroup.procs -exec cat {} +)
  timeout 20 "$IMAGEFS" --root "$ROOT" --run "$RUN" stop --unmount
  wait $controller $slurmd
  wait_for 5 'find "$group" -depth -type d -exec rmdir {} + ; [ ! -e "$group" ]'
} >/dev/null 2>&1
AT_END=(end_slurm ${AT_END[@]+"${AT_END[@]}"})
wait_for 30 '[ "$(sinfo -h -o %t)" = idle ]' || fail "no node: $(sinfo; tail -n 5 "$T/slurmd.log")"
# job COMMAND...: as the user, from a shell that has nothing of this one.
job() { (cd /mnt && as_user env SLURM_CONF=$SLURM_CONF timeout -k 5 120 srun "$@"); }
idle() { wait_for 60 '[ "$(sinfo -h -o %t)" = idle ] && [ -z "$(ls /mnt/images)" ]' || fail "left of a job: $(sinfo; ls /mnt/images)"; }

# ---- the prolog's image, which is not here yet: one task, then 64 at once
forget_requests
same "a job" "$uid one" "$(job sh -c 'id -u; cat /mnt/images/$SLURM_JOB_ID/word' | xargs)"
idle
job -n 64 sh -c 'bwrap --ro-bind /mnt/images/$SLURM_JOB_ID / --proc /proc --dev /dev /bin/sh -c "cat /data/* | sha256sum"' >"$T/out"
same "64 tasks" "64 $sums -" "$(sort "$T/out" | uniq -c | xargs)"
idle
lazy once "$SHAPER/requests" "$T/images/app" || fail "asked twice"
same "mounts" "[]" "$(ifs ls --json | tr -d ' \n')"

# ---- autofs
if grep -qw autofs /proc/filesystems && command -v automount >/dev/null; then
  sbin=$(readlink -f /sbin)
  ln -s "$IMAGEFS" /mnt/sbin/upper/mount.imagefs
  mount -t overlay -o "lowerdir=$sbin,upperdir=/mnt/sbin/upper,workdir=/mnt/sbin/work" overlay "$sbin"
  cat >/mnt/auto.images <<MAP
#!/bin/sh
case \$1 in *[!a-z0-9._-]*) exit 1 ;; esac
echo "-fstype=imagefs,root=$ROOT,run=$RUN :$SHAPED/test/\$1:1"
MAP
  chmod 755 /mnt/auto.images
  echo "/mnt/auto program:/mnt/auto.images --timeout=2" >/mnt/auto.master
  mkdir /mnt/auto
  automount -f -p "$T/automount.pid" /mnt/auto.master >"$T/automount.log" 2>&1 &
  automounter=$!
  end_automount() { kill $automounter && wait $automounter || true; } 2>/dev/null
  AT_END=(end_automount ${AT_END[@]+"${AT_END[@]}"})
  wait_for 20 'grep -q " /mnt/auto autofs" /proc/self/mounts' || fail "$(cat "$T/automount.log")"
  # The namespace of a job is a private copy (Slurm 22.05 has no other), which nothing reaches that is mounted later.
  same "by autofs" one "$(timeout 30 cat /mnt/auto/app/word)"  # in a process group that is not the automounter's
  wait_for 30 '[ "$(ifs ls --json | tr -d " \n")" = "[]" ]' || fail "idle: $(ifs ls)"
  ! job cat /mnt/auto/app/word >"$T/out" 2>&1 || fail "autofs reaches a private namespace: docs/hpc.md says otherwise"
  grep -q 'Too many levels of symbolic links' "$T/out" || fail "autofs: $(cat "$T/out")"
  idle
  wait_for 30 '[ "$(ifs ls --json | tr -d " \n")" = "[]" ]' || fail "idle: $(ifs ls)"
else
  echo "NOT TESTED: a job and autofs: this machine has none" >&2
fi

# ---- without root, in a job: its own store, below the /tmp that goes with the job
its=/tmp/${T##*/}-job
inside="set -e; imagefs() { $IMAGEFS --root $its/store --run $its/run \"\$@\"; }; mkdir $its /tmp/app"
# daemons_in DIR: those with the store DIR/store, wherever they see it.
daemons_in() {
  local pid
  for pid in $(cd /proc && grep -slae "${1}[/]store" [0-9]*/cmdline || true); do
    [ "$(readlink "/proc/${pid%/*}/exe")" != "$(readlink -f "$IMAGEFS")d" ] || echo "${pid%/*}"
  done
}
if [ $tracked = proctrack/cgroup ]; then
  forget_requests
  same "mounted by the job" "one $sums -" "$(job sh -c "$inside; imagefs mount -q $app /tmp/app >/dev/null; cat /tmp/app/word; cat /tmp/app/data/* | sha256sum; imagefs umount /tmp/app; imagefs stop" | xargs)"
  idle
  wait_for 20 '[ -z "$(daemons_in "$its")" ]' || fail "left of a job: $(daemons_in "$its")"
  : >"$T/out"
  job sh -c "$inside; imagefs mount -q $app /tmp/app >/dev/null; cat /tmp/app/word; exec sleep 1000" >"$T/out" 2>/dev/null &
  waits=$!
  wait_for 60 'grep -q one "$T/out"' || fail "it does not start: $(cat "$T/out")"
  same "its daemons" 1 "$(daemons_in "$its" | wc -l)"
  scancel -u nobody
  wait $waits || true
  same "jobs" "" "$(squeue -h -t running)"
  idle
  wait_for 20 '[ -z "$(daemons_in "$its")" ]' || fail "left of a cancelled job: $(daemons_in "$its")"
  same "left of /tmp" "" "$(ls -A /mnt/jobs/*)"

  # Two jobs with one store, at the same time: the second finds the daemon of the first by the store, not by its own /tmp.
  both="imagefs() { $IMAGEFS --root /mnt/home/store --run $its/run \"\$@\"; }; mkdir $its /tmp/app; imagefs mount -q $app /tmp/app >/dev/null"
  job sh -c "$both; cat /tmp/app/word; while [ ! -e /mnt/home/end ]; do sleep 0.1; done; imagefs umount /tmp/app" >"$T/out" 2>&1 &
  first=$!
  wait_for 60 'grep -qsx one "$T/out"' || fail "it does not start: $(cat "$T/out")"
  same "the second" "one 50" "$(job sh -c "$both; cat /tmp/app/word; ls /tmp/app/data | wc -l; imagefs umount /tmp/app" | xargs)"
  touch /mnt/home/end
  wait $first || fail "the first: $(cat "$T/out")"
else
  echo "NOT TESTED: what a job mounts: without control groups of version 1, Slurm does not end its daemon here" >&2
fi

# ---- an image that cannot be had costs the job its image, and the cluster no node: a prolog that fails would drain it
sed -i 's|test/app:1|test/none:1|' /mnt/prolog
same "without an image" "0" "$(job sh -c 'ls /mnt/images/$SLURM_JOB_ID | wc -l')"
idle
nothing_left /mnt/images
