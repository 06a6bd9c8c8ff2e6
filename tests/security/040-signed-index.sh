#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Signed indexes: what minisign's keys sign, how minisign verifies it, and that a signature is of one image's
# index only. Passwords from a pipe and on a terminal. Keys that others may read. What a second push keeps.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need minisign
start_registry registry
lazy_image app gzip
subject=$(manifest_of app)
mkdir "$T/keys"
cd "$T/keys"
key_id() { sed -n '1s/.* //p' "$1.pub" | awk '{printf "%16s", $1}' | tr ' ' 0; }

minisign -G -W -p fleet.pub -s fleet.key >/dev/null
minisign -G -W -p other.pub -s other.key >/dev/null
fleet=$(key_id fleet) other=$(key_id other)

# fetch NAME: the artifact of test/NAME:1 into $T/NAME.json, its statement, and each of its signatures.
# The statement is written by docs/formats/published.md, not by the program.
fetch() {
  lazy manifest "$REGISTRY/test/$1" "sha256-$(manifest_of "$1" | cut -d: -f2).imagefs" >"$T/$1.json" 2>/dev/null
  statement "$1"
}
statement() {
  $PY - "$T/$1" <<'PY'
import json, sys
where = sys.argv[1]
j = json.load(open(where + ".json"))
def escaped(text):
    return "".join(chr(c) if 0x20 < c < 0x7f and c != 0x25 else "%%%02X" % c for c in text.encode())
lines = ["imagefs index statement 1", "artifact " + escaped(j["artifactType"]), "subject " + j["subject"]["digest"]]
for layer in j["layers"]:
    lines.append("layer %s %s %d" % (escaped(layer["mediaType"]), layer["digest"], layer["size"]))
    for name, value in sorted(layer.get("annotations", {}).items()):
        lines.append("annotation %s %s" % (escaped(name), escaped(value)))
open(where + ".statement", "w").write("\n".join(lines) + "\n")
for name, text in j.get("annotations", {}).items():
    if name.startswith("dev.imagefs.signature."):
        open(where + "." + name.rsplit(".", 1)[1], "w").write(text)
PY
}
# verifies KEY NAME [ID]: minisign says so, of the statement and the signature in the name of that key.
verifies() { minisign -V -q -p "$1.pub" -m "$T/$2.statement" -x "$T/$2.${3:-$(key_id "$1")}" >"$T/said" 2>&1; }
signatures() { field 'sorted(k for k in j.get("annotations", {}))' <"$T/$1.json"; }

# Signed by a key without a password: found by the tag, verified by minisign, the comment signed as well.
ifs index -q --push --sign fleet.key --json "$REGISTRY/test/app:1" >"$T/pushed.json"
same "signed by" "[\"$fleet\"]" "$(field 'j["signed_by"]' <"$T/pushed.json")"
fetch app
same "annotations" "[\"dev.imagefs.signature.$fleet\"]" "$(signatures app)"
verifies fleet app || fail "minisign does not verify: $(cat "$T/said")"
same "trusted comment" "imagefs index of $subject" "$(minisign -V -Q -p fleet.pub -m "$T/app.statement" -x "$T/app.$fleet")"
same "lines of layers" "$(field 'len(j["layers"])' <"$T/app.json")" "$(grep -c '^layer ' "$T/app.statement")"
! minisign -V -q -p other.pub -m "$T/app.statement" -x "$T/app.$fleet" 2>/dev/null || fail "another key verifies it"
cp "$T/app.json" "$T/first.json"

# The same again is the same artifact, and sends nothing. One more key adds its signature, bundles stay.
ifs index -q --push --sign fleet.key --json "$REGISTRY/test/app:1" >"$T/again.json"
same "artifact" "$(field 'j["artifact"]' <"$T/pushed.json")" "$(field 'j["artifact"]' <"$T/again.json")"
same "sent" 0 "$(field 'j["sent_bytes"]' <"$T/again.json")"
ifs index -q --push --sign other.key --json "$REGISTRY/test/app:1" >"$T/again.json"
same "sent" 0 "$(field 'j["sent_bytes"]' <"$T/again.json")"
both=$(printf '%s\n' "$fleet" "$other" | sort | tr '\n' ' ')
same "signed by" "$both" "$(field '" ".join(sorted(j["signed_by"])) + " "' <"$T/again.json")"
fetch app
verifies fleet app && verifies other app || fail "one of two signatures does not verify"
# Both stay when somebody pushes who has no key.
ifs index -q --push --json "$REGISTRY/test/app:1" >"$T/again.json"
same "signed by" "$both" "$(field '" ".join(sorted(j["signed_by"])) + " "' <"$T/again.json")"
fetch app
verifies fleet app && verifies other app || fail "a push without a key spoils signatures"
# Two keys at once, into an archive.
ifs index -q -o "$T/app.tar" --sign fleet.key --sign other.key "$REGISTRY/test/app:1" >"$T/out"
same "said" 2 "$(grep -c '^signed by ' "$T/out")"
skopeo inspect --raw "oci-archive:$T/app.tar" >"$T/archive.json"
statement archive
verifies fleet archive && verifies other archive || fail "the archive's signatures do not verify"

# An index that says something else takes the place of the signed one: that is said, and its signatures go.
ifs mount -q "$REGISTRY/test/app:1" "$M" >/dev/null && cat "$M"/etc/* >/dev/null 2>&1 || true
ifs umount "$M"
printf '{"version":1,"layers":[],"parts":[]}' >"$T/profile.json"
ifs profile import "$REGISTRY/test/app:1" "$T/profile.json" >/dev/null
ifs index -q --push --profile --json "$REGISTRY/test/app:1" >"$T/changed.json"
same "signed by" "[]" "$(field 'j["signed_by"]' <"$T/changed.json")"
same "lost" "$both" "$(field '" ".join(sorted(j["signatures_lost"])) + " "' <"$T/changed.json")"
fetch app
same "annotations" "[]" "$(signatures app)"
ifs index -q --push --profile --sign fleet.key "$REGISTRY/test/app:1" >"$T/out"
grep -q "^signed by $fleet$" "$T/out" || fail "what it says: $(cat "$T/out")"
rm -f "$T"/app.[0-9A-F]*
fetch app
verifies fleet app || fail "the index with its profile does not verify"
grep -q '^layer application/vnd.imagefs.profile.v1+json ' "$T/app.statement" || fail "the profile is not signed"

# Edited artifacts: whatever a reader of the index looks at.
for edit in 'j["subject"]["digest"] = "sha256:" + "0" * 64' 'j["layers"][0]["digest"] = "sha256:" + "1" * 64' \
  'j["layers"][0]["size"] += 1' 'j["layers"].pop()' 'j["layers"].reverse()' 'j["layers"].append(j["layers"][0])' \
  'j["layers"][0]["annotations"]["dev.imagefs.layer"] = "sha256:" + "2" * 64' \
  'j["layers"][0]["annotations"]["dev.imagefs.diff-id"] = "sha256:" + "3" * 64' \
  'j["layers"][0]["annotations"].pop("dev.imagefs.diff-id")' 'j["layers"][0]["annotations"]["more"] = "x"' \
  'j["layers"][0]["mediaType"] += "x"' 'j["artifactType"] += "x"'; do
  $PY - "$T" "$edit" <<'PY'
import json, sys
j = json.load(open(sys.argv[1] + "/app.json"))
exec(sys.argv[2])
json.dump(j, open(sys.argv[1] + "/edited.json", "w"))
PY
  rm -f "$T"/edited.[0-9A-F]*
  statement edited
  ! verifies fleet edited || fail "it verifies after: $edit"
done

# Moved: another image's index with this image's signature.
lazy_image neighbour gzip 2
ifs index -q --push "$REGISTRY/test/neighbour:1" >/dev/null
fetch neighbour
cp "$T/app.$fleet" "$T/neighbour.$fleet"
! verifies fleet neighbour || fail "a signature can be moved to another image"

# With a password: from a pipe, and on a terminal without echo. A wrong one is refused before any work.
printf 'open sesame\nopen sesame\n' | minisign -G -p locked.pub -s locked.key >/dev/null 2>&1
locked=$(key_id locked)
printf 'open sesame\n' | ifs index -q --push --sign locked.key "$REGISTRY/test/neighbour:1" >"$T/out"
grep -q "^signed by $locked$" "$T/out" || fail "what it says: $(cat "$T/out")"
fetch neighbour
verifies locked neighbour || fail "minisign does not verify: $(cat "$T/said")"
refuse 5 'locked.key: the password is wrong' ifs index -q --push --sign locked.key "$REGISTRY/test/app:1" <<<"open sesam"
refuse 1 'locked.key: it has a password; give that on the standard input' \
  ifs index -q --push --sign locked.key "$REGISTRY/test/app:1" </dev/null
refuse 1 'longer than 1024 bytes' ifs index -q --push --sign locked.key "$REGISTRY/test/app:1" \
  < <(head -c 5000 /dev/zero | tr '\0' x)
# What a terminal shows, and how it is left: in the end, and by Ctrl-C.
cat >"$T/terminal.py" <<'PY'
import os, pty, select, signal, sys, termios, time
typed, command = sys.argv[1], sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
seen, deadline = b"", time.monotonic() + 120
def read_until(what):
    global seen
    while what not in seen:
        if time.monotonic() > deadline: sys.exit("no %r in %r" % (what, seen))
        if not select.select([fd], [], [], 1)[0]: continue
        try: got = os.read(fd, 4096)
        except OSError: got = b""
        if not got: break
        seen += got
read_until(b"Password of ")
while termios.tcgetattr(fd)[3] & termios.ECHO:
    if time.monotonic() > deadline: sys.exit("the terminal echoes")
    time.sleep(0.01)
if typed == "^C":
    os.write(fd, b"secr\x03")
else:
    os.write(fd, typed.encode() + b"\n")
read_until(b"never said")
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if not termios.tcgetattr(fd)[3] & termios.ECHO: sys.exit("the terminal is left without echo")
for secret in (typed.encode(), b"secr"):
    if secret in seen: sys.exit("the password is shown: %r" % seen)
sys.stdout.write(seen.decode())
sys.exit(status)
PY
$PY "$T/terminal.py" 'open sesame' timeout --foreground 120 "$IMAGEFS" --root "$ROOT" --run "$RUN" index -q --push \
  --sign locked.key "$REGISTRY/test/app:1" >"$T/out" || fail "on a terminal: $(cat "$T/out")"
grep -q "signed by $locked" "$T/out" || fail "on a terminal: $(cat "$T/out")"
status=0
$PY "$T/terminal.py" '^C' timeout --foreground 120 "$IMAGEFS" --root "$ROOT" --run "$RUN" index -q --push \
  --sign locked.key "$REGISTRY/test/app:1" >"$T/out" 2>&1 || status=$?
same "status after Ctrl-C" 130 "$status"

# Keys that are none, or not secret.
chmod 640 fleet.key
refuse 1 'fleet.key: a secret key that others may read \(mode 0640\); chmod 600' \
  ifs index -q --push --sign fleet.key "$REGISTRY/test/app:1"
chmod 600 fleet.key
refuse 1 'fleet.pub: a secret key that others may read' ifs index -q --push --sign fleet.pub "$REGISTRY/test/app:1"
chmod 600 fleet.pub
refuse 1 'fleet.pub: it is not a minisign secret key' ifs index -q --push --sign fleet.pub "$REGISTRY/test/app:1"
refuse 4 'absent.key: No such file' ifs index -q --push --sign absent.key "$REGISTRY/test/app:1"
refuse 1 'keys: Is a directory' ifs index -q --push --sign "$T/keys" "$REGISTRY/test/app:1"
refuse 1 'too long' ifs index -q --push --sign /dev/zero "$REGISTRY/test/app:1"
refuse 1 'it is not a minisign secret key' ifs index -q --push --sign <(head -c 300 /dev/urandom) "$REGISTRY/test/app:1"
many=()
for k in {1..17}; do many+=(--sign fleet.key); done
refuse 1 'at most 16 keys, not by 17' ifs index -q --push "${many[@]}" "$REGISTRY/test/app:1"
refuse 2 'index takes --push' ifs index -q --sign fleet.key "$REGISTRY/test/app:1"
# A key out of a pipe is on no disk.
ifs index -q --push --sign <(cat fleet.key) "$REGISTRY/test/app:1" >/dev/null || fail "a key out of a pipe"

# Neither the daemon nor the registry has seen a secret: no log, no store, no argument, no memory of the daemon.
secret=$(sed -n 2p fleet.key)
grep -rqF -e "$secret" -e 'open sesame' "$ROOT" "$RUN" "$T/registry" "$T"/*.log && fail "a secret is on the disk"
$PY - "$(daemons)" "$secret" <<'PY' || fail "a secret is in the daemon's memory"
import base64, re, sys
pid, secret = sys.argv[1], base64.b64decode(sys.argv[2])
needles = [secret[62:94], sys.argv[2].encode(), b"open sesame"]  # the seed of the key, the text of its file, the password
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
    looked = 0
    for line in maps:
        begin, end, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
        if not rights.startswith("rw"): continue
        try:
            mem.seek(int(begin, 16))
            bytes_ = mem.read(int(end, 16) - int(begin, 16))
        except (OSError, ValueError): continue
        looked += len(bytes_)
        if any(needle in bytes_ for needle in needles): sys.exit(1)
sys.exit(0 if looked > 1 << 20 else "nothing was read")
PY

# A user signs with a daemon of their own.
mkdir "$T/user"
cp fleet.key "$T/user/"
chown -R 1234:1234 "$T/user"
as_user() { HOME=$T/user setpriv --reuid 1234 --regid 1234 --clear-groups timeout 60 "$IMAGEFS" --root "$T/user/root" \
  --run "$T/user/run" "$@"; }
as_user index -q -o "$T/user/app.tar" --sign "$T/user/fleet.key" "$REGISTRY/test/app:1" >"$T/out" || fail "a user cannot sign"
as_user stop
skopeo inspect --raw "oci-archive:$T/user/app.tar" >"$T/user.json"
statement user
verifies fleet user || fail "what a user signed does not verify"

# The configuration: a key, a file of one, and what is neither.
configure '[index]' "keys = [\"$(sed -n 2p fleet.pub)\", \"$T/keys/other.pub\"]"
store configured
ifs ls >/dev/null || fail "the keys are not taken"
configure '[index]' "keys = [\"$T/keys/fleet.key\"]"
store wrong
refuse 7 'index.keys.*fleet.key: it is not a minisign public key' ifs ls
! grep -qF "${secret:0:20}" "$T/err" || fail "the secret key is in the message"
echo "all is as it should be"
