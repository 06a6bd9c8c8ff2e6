#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `run` and `shell`, as root and as a user with and without subordinate ids: what the image and the caller say is run,
# with their environment; exit statuses, signals, pipes and terminals are right; links of an image lead nowhere; a full
# disk is an error of the program; and nothing is left, also after kill -9.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need setpriv; need script; need newuidmap
open_fuse
home='' uid=''
user_home "$T/user"
mkdir "$T/outside" "$T/bound" "$T/small"
echo bound >"$T/bound/file"
$PY - "$LIB" "$T/images" "$T/outside" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
at, outside = sys.argv[2:]
def tree(bare=()):
    t = host_tar(["sh", "cat", "ls", "id", "env", "sleep", "tty", "stty", "dd", "uname", "bash", "touch", "readlink"])
    for name in ("proc", "sys", "dev", "etc"):
        if name not in bare: t.dir(name)
    t.dir("tmp", mode=0o1777).dir("root", mode=0o700).file("root/secret", b"of root\n", mode=0o600)
    t.file("data", b"no program\n").file("script", b"#!/bin/absent\n", mode=0o755).file("text", b"echo shell\n", mode=0o755)
    if "etc" not in bare:
        t.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nwww:x:33:34::/tmp:/bin/sh\n").file("etc/group", b"web:x:34:\nmore:x:50:www\n")
    return t
def image(name, layers, platform=("linux", "amd64", ""), **config):
    simple_image(f"{at}/{name}", layers, platform=platform, config_extra={"config": config})
path = ["PATH=/bin", "GREETING=from the image"]
image("plain", [tree()], Env=path, Cmd=["sh", "-c", 'echo "$GREETING"'])
image("entry", [tree()], Env=path + ["SHELL=/bin/sh"], Entrypoint=["/bin/sh", "-c", 'echo "$0 $*; $(id -u)"'], Cmd=["a", "b"], WorkingDir="/new/dir", User="www")
image("none", [tree()], Env=path)
image("foreign", [tree()], ("linux", "s390x", ""), Env=path, Cmd=["sh"])
image("empty", [Tar().dir("etc")], Env=path, Cmd=["sh"])
for name in ("proc", "dev", "sys"):
    image("link-" + name, [tree({name}).symlink(name, "/etc")], Env=path, Cmd=["sh"])
image("links", [tree().symlink("etc/resolv.conf", outside + "/resolv").symlink("etc/hosts", "../../../.." + outside + "/hosts").symlink("out", outside)],
      Env=path, Cmd=["cat", "/etc/resolv.conf"])
P
chmod -R go+rX "$T/images"
chmod 777 "$T/bound" "$T/small"
plain=oci:$T/images/plain
as_root() { "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@"; }
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
# begin WHO ARGUMENT...: in the background; sets `pid`, of the command itself.
begin() {
  local who=$1
  shift
  if [ "$who" = as_root ]; then "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@" &
  else
    env -i PATH="$PATH" HOME="$home" setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all \
      "$IMAGEFS" --root "$home/root" --run "$home/run" "$@" &
  fi
  pid=$!
}
ended() { local status=0; wait $pid || status=$?; same "$1" "$2" $status; }
status_of() { local status=0; "$@" >"$T/out" 2>"$T/err" || status=$?; echo $status; }
# failed STATUS REGEX COMMAND...
failed() {
  same "status of ${*:3}" "$1" "$(status_of "${@:3}")"
  grep -qE -e "$2" "$T/err" || { cat "$T/err" >&2; fail "the message does not say /$2/: ${*:3}"; }
}
nothing_runs() { wait_for 20 '[ "$('"$1"' ls --json | tr -d " \n")" = "[]" ]' || fail "left: $($1 ls)"; }

programs() {  # programs WHO: what is the same for all
  local who=$1 binary pid
  binary=$(sha256sum <"$IMAGEFS")
  same "the image's command" "from the image" "$($who run "$plain")"
  same "a command, its options" "-l --user x" "$($who run "$plain" sh -c 'echo "$@"' sh -l --user x)"
  same "pipes" "through" "$(echo through | $who run "$plain" cat | cat)"
  same "environment" "1 from here" "$(GREETING=x $who run --env A=1 -e "B=from here" "$plain" sh -c 'echo $A $B')"
  same "variable that is not set" "" "$($who run -e ABSENT_HERE "$plain" sh -c 'env | while read l; do case $l in ABSENT*) echo $l;; esac; done')"
  same "directory" /new/place "$($who run -w /new/place "$plain" sh -c 'cd . && readlink /proc/self/cwd')"
  same "root reads all" "of root" "$($who run "$plain" cat /root/secret)"
  same "host name and network are the machine's" "$(uname -n)" "$($who run "$plain" uname -n)"
  same "first process but one" "1 sh" "$($who run "$plain" sh -c 'read -r p n _ </proc/1/stat; read -r q m _ </proc/self/stat; echo $p sh')"
  same "devices" 8 "$($who run "$plain" sh -c 'dd if=/dev/zero bs=8 count=1 2>/dev/null >/tmp/z; cat /tmp/z >/dev/null; set -- $(ls -l /tmp/z); echo $5')"
  same "nothing of the machine is open" "0 1 2 3" "$($who run "$plain" sh -c 'exec ls /proc/self/fd' 7<"$T/bound/file" | xargs)"
  same "entry point" "a b; 33" "$(WHO=$who entry run "oci:$T/images/entry")"
  same "another" "/proc" "$($who run --entrypoint /bin/ls "$plain" -d /proc)"

  same "status" 3 "$(status_of $who run "$plain" sh -c 'exit 3')"
  same "signal" 137 "$(status_of $who run "$plain" sh -c 'kill -9 $$')"
  failed 127 'nonesuch: no such program in the image' $who run "$plain" nonesuch
  failed 127 'interpreter' $who run "$plain" /script
  failed 127 'has no shell' $who shell "oci:$T/images/empty"
  failed 126 '/data: Permission denied' $who run "$plain" /data
  failed 126 'no program for this machine' $who run "$plain" /text
  failed 125 'names no command' $who run "oci:$T/images/none"
  failed 125 'image is for linux/s390x' $who run "oci:$T/images/foreign"
  failed 125 's390x.*choose another --platform' $who run --platform linux/s390x "oci:$T/images/foreign"
  failed 125 'imagefs:' $who run "oci:$T/images/absent"
  failed 125 '--bind .*/none' $who run --bind "$T/none:/x" "$plain"
  failed 125 'no user "nonesuch"' $who run --user nonesuch "$plain"
  failed 2 'omit --json' $who --json run "$plain"

  same "bind" bound "$($who run --bind "$T/bound:/some/place" "$plain" cat /some/place/file)"
  same "bind of a file" bound "$($who run --bind "$T/bound/file:/etc/hosts:ro" "$plain" cat /etc/hosts)"
  $who run --bind "$T/bound:/b" "$plain" sh -c 'echo new >/b/'"$who" && same "written" new "$(cat "$T/bound/$who")"
  failed 2 'Read-only' $who run --bind "$T/bound:/b:ro" "$plain" sh -c 'echo >/b/x'
  same "writable" w "$($who run "$plain" sh -c 'echo w >/etc/new && cat /etc/new')"
  failed 2 'Read-only' $who run --read-only "$plain" sh -c 'echo >/etc/new'
  same "discarded" 2 "$(status_of $who run "$plain" ls /etc/new)"
  mkdir -m 777 "$T/keep-$who"
  $who run --keep "$T/keep-$who/k" "$plain" sh -c 'echo kept >/etc/new; touch /gone /tmp/x'
  same "kept" kept "$($who run --keep "$T/keep-$who/k" "$plain" cat /etc/new)"
  begin "$who" run --keep "$T/keep-$who/k" "$plain" sleep 1234
  wait_for 20 'pgrep -f "^sleep 1234$" >/dev/null' || fail "it does not start"
  failed 125 'another run writes to it' $who run --keep "$T/keep-$who/k" "$plain"
  kill -TERM $pid
  ended "ended by a signal" 143

  failed 125 'make it first' $who run --bind "$T/bound:/b" -w /b/new "$plain"

  # Links lead nowhere.
  for name in proc dev sys; do failed 125 "/$name is no directory" $who run "oci:$T/images/link-$name"; done
  same "resolv.conf" "$(cat /etc/resolv.conf)" "$($who run "oci:$T/images/links")"
  $who run --bind "$T/bound:/out/x" -w /out/y "oci:$T/images/links" cat /out/x/file 2>/dev/null || true
  same "nothing outside" "" "$(ls "$T/outside")"
  same "this program cannot be written" 2 "$(status_of $who run "$plain" sh -c 'echo >>/proc/1/exe')"
  $who run --entrypoint /proc/self/exe "$plain" >/dev/null 2>&1 || true
  same "it was not" "$binary" "$(sha256sum <"$IMAGEFS")"

  # A full disk is the program's.
  mount -t tmpfs -o size=1m,mode=777 small "$T/small"
  failed 0 'No space left' $who run --keep "$T/small/k" "$plain" sh -c 'dd if=/dev/zero of=/big bs=64k count=100; echo goes on'
  same "goes on" "goes on" "$(cat "$T/out")"
  umount "$T/small"
}
# The image's user is another one than root, which a user with one id cannot be.
entry() { $WHO "$@" 2>/dev/null; }

signals() {  # signals WHO
  local who=$1 pid
  begin "$who" run "$plain" sh -c 'trap "echo got; exit 7" TERM; echo ready; while :; do sleep 0.1; done' >"$T/said"
  wait_for 20 'grep -qx ready "$T/said"' || fail "it does not start"
  kill -TERM $pid
  ended "its status" 7
  same "the program got it" "ready got" "$(xargs <"$T/said")"
  # Killed: nothing is left.
  begin "$who" run "$plain" sleep 7391
  wait_for 20 'pgrep -f "^sleep 7391$" >/dev/null' || fail "it does not start"
  same "listed" / "$($who ls -q)"
  kill -9 $pid
  ended "killed" 137
  wait_for 20 '! pgrep -f "sleep 7391$" >/dev/null' || fail "the program goes on"
  nothing_runs "$who"
}

terminal() {  # terminal WHO: at a terminal, with the job control of a shell
  local who=$1 line
  [ "$who" = as_root ] && line="$IMAGEFS --root $ROOT --run $RUN" ||
    line="env -i PATH=$PATH HOME=$home setpriv --reuid=$uid --regid=$uid --clear-groups $IMAGEFS --root $home/root --run $home/run"
  same "a terminal" "yes 24 80" "$(script -qec "stty rows 24 cols 80; $line run -q $plain sh -c 'test -t 0 && echo yes \$(stty size)'" /dev/null </dev/null | tr -d '\r')"
  $PY - "$line run -q $plain" "$line shell -q $plain" <<'P' || fail "at a terminal, $who"
import os, pty, re, select, signal, sys, time
run, shell = sys.argv[1:]
pid, fd = pty.fork()
if pid == 0:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP): signal.signal(number, signal.SIG_DFL)
    os.environ["PS1"] = "outer> "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
seen = b""
def expect(regex, seconds=60):
    global seen
    end = time.time() + seconds
    while not re.search(regex, seen):
        if time.time() > end: sys.exit(f"no {regex} in {seen!r}")
        if select.select([fd], [], [], 1)[0]: seen += os.read(fd, 65536)
    seen = seen[re.search(regex, seen).end():]
def say(text): os.write(fd, text.encode() if isinstance(text, str) else text)
expect(b"outer> ")
say(run + " sh -c 'echo be\"\"gin; exec sleep 1000'\n"); expect(b"begin\r")
say(b"\x03"); expect(b"outer> "); say("echo status=$?\n"); expect(b"status=130\r"); expect(b"outer> ")
say(run + " sh -c 'echo be\"\"gin; read x; echo got=$x'\n"); expect(b"begin\r")
say(b"\x1a"); expect(b"Stopped"); expect(b"outer> ")
say("fg\n"); expect(b"fg"); say("word\n"); expect(b"got=word\r"); expect(b"outer> ")
say("echo status=$?\n"); expect(b"status=0\r"); expect(b"outer> ")
say(shell + "\n"); time.sleep(1); say("PS1='in''ner> '\n"); expect(b"inner> ")
say("sleep 1000\n"); time.sleep(1); say(b"\x1a"); expect(b"Stopped"); expect(b"inner> ")
say("jobs; echo shell=$BASH_VERSION\n"); expect(b"sleep 1000"); expect(b"shell=[0-9]")
say("fg\n"); expect(b"sleep 1000"); time.sleep(0.5); say(b"\x03"); expect(b"inner> "); say("exit 9\n"); expect(b"outer> "); say("echo status=$?\n"); expect(b"status=9\r"); expect(b"outer> ")
say("cat\n"); time.sleep(0.5); say("alive\n"); expect(b"alive\r\nalive\r\n"); say(b"\x04"); expect(b"outer> "); say("exit\n")
P
}

programs as_root
same "user of the image" "33 34 34 50" "$(as_root run --user www "$plain" sh -c 'echo $(id -u) $(id -g) $(id -G)')"
same "by number" "7 0" "$(as_root run --user 7 "$plain" sh -c 'echo $(id -u) $(id -g)')"
same "not root's" 1 "$(status_of as_root run --user www "$plain" cat /root/secret)"
same "capabilities" 00000000a80425fb "$(as_root run "$plain" sh -c 'while read k v; do [ $k = CapEff: ] && echo $v; done </proc/self/status')"
same "the machine's settings" 2 "$(status_of as_root run "$plain" sh -c 'echo 1 >/proc/sys/kernel/panic')"
signals as_root
terminal as_root
nothing_runs as_root
same "nothing is kept" "" "$(ls "$ROOT/upper")"

# With subordinate ids, of which this machine knows only here.
: >"$T/ids"
for file in /etc/subuid /etc/subgid; do [ -e "$file" ] || touch "$file"; done
unset_ids() { umount /etc/subuid /etc/subgid; }
mount --bind "$T/ids" /etc/subuid && mount --bind "$T/ids" /etc/subgid
AT_END+=(unset_ids)
echo "nobody:200000:65536" >"$T/ids"
programs user
same "user of the image" "33 34 34 50" "$(user run --user www "$plain" sh -c 'echo $(id -u) $(id -g) $(id -G)')"
same "not root's" 1 "$(status_of user run --user www "$plain" cat /root/secret)"
signals user
terminal user
nothing_runs user

# With the caller's own ids alone.
: >"$T/ids"
same "root of the container" "0 0" "$(user run "$plain" sh -c 'echo $(id -u) $(id -g)')"
same "writable" w "$(user run "$plain" sh -c 'echo w >/etc/new && cat /etc/new')"
same "what is written is the caller's" "$uid" "$(user run --bind "$T/bound:/b" "$plain" touch /b/mine && stat -c %u "$T/bound/mine")"
same "the image's user" "a b; 0" "$(user run "oci:$T/images/entry" 2>"$T/err")"
same "it is told once" 1 "$(grep -c 'wants user www.*subordinate' "$T/err")"
failed 125 'subordinate ids.*uidmap' user run --user www "$plain"
nothing_runs user
user stop
as_root stop
nothing_left "$M" "$home"
