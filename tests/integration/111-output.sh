#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is printed as JSON has the members that docs/cli.md lists, failures too; errors of the standard output
# count, and closed descriptors do no harm.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain
ref=oci:$T/images/plain
mkdir "$M/a" "$T/json"
json() {  # json NAME STATUS ARGUMENT...
  local name=$1 want=$2 status=0
  shift 2
  ifs --json "$@" >"$T/json/$name" 2>"$T/err" || status=$?
  same "status of $*: $(cat "$T/err")" "$want" $status
}
json error.mount 1 mount -q oci:/nonexistent "$M/a"
json error.rm 1 rm no/such:1
json error.inspect 1 inspect oci:/nonexistent
json error.status 1 status "$M/a"
json error.usage 2 mount -q "$ref"
json error.verb 2 mout
json mount 0 mount -q "$ref" "$M/a"
json ls 0 ls
json images 0 images
json status 0 status
json status.DIR 0 status "$M/a"
json doctor 0 doctor
json inspect 0 inspect "$ref"
json umount 0 umount "$M/a"
json pull 0 pull -q "$ref"
json error.evict 1 evict no/such:1
json rm 0 rm "$ref"
json umount.failures 1 umount "$M/a"
json add.--list 0 add --list
json stop 0 stop
$PY - "$SOURCE/docs/cli.md" "$T/json" <<'PY' || fail "the output is not what docs/cli.md says"
import json, os, re, sys

def parse(text):
    """{a, b[], c{d, e}, f[{g}]} as nested dictionaries and lists."""
    tokens = re.findall(r"[A-Za-z_]+|[][{}]", text)
    def value():
        if tokens and tokens[0] == "{":
            tokens.pop(0)
            members = {}
            while tokens[0] != "}":
                name = tokens.pop(0)
                members[name] = value() if tokens[0] in "{[" else None
            tokens.pop(0)
            return members
        tokens.pop(0)  # [
        inner = value() if tokens[0] != "]" else None
        tokens.pop(0)
        return [inner]
    return value()

def check(where, shape, got):
    if isinstance(shape, dict):
        if "NAME" in shape:
            return [problem for key in got for problem in check(f"{where}.{key}", shape["NAME"], got[key])]
        if not shape and isinstance(got, dict):
            return []
        if not isinstance(got, dict) or list(shape) != list(got):
            return [f"{where}: documented {list(shape)}, printed {list(got) if isinstance(got, dict) else got}"]
        return [problem for key in shape for problem in check(f"{where}.{key}", shape[key], got[key])]
    if isinstance(shape, list):
        if not isinstance(got, list):
            return [f"{where}: no list: {got}"]
        return [p for one in got if shape[0] is not None for p in check(where + "[]", shape[0], one)]
    return []

text, folder = open(sys.argv[1]).read(), sys.argv[2]
shapes = {}
for row in re.findall(r"^\| `.*", text, re.M):
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    verb = re.sub(r"[` ]", " ", cells[0]).split()
    if cells[-1].startswith(("{", "[")):
        name = verb[0]
        if verb[1:2] in (["DIR"], ["--list"]) and name in ("status", "add"):
            name += "." + verb[1]
        shapes.setdefault(name, parse(cells[-1]))
assert {"mount", "ls", "status", "status.DIR", "stop", "rm", "inspect"} <= set(shapes), sorted(shapes)
shapes["error"] = {"error": {"code": None, "message": None}}
shapes["add.--list"] = {"store": None, **shapes["add"]}
# What the registry said, and how many counters there are, is not documented by name.
for name in ("manifest", "config"):
    shapes["inspect"][name] = None
problems = []
for name in sorted(os.listdir(folder)):
    shape = shapes["error" if name.startswith("error.") else name.removesuffix(".failures")]
    problems += check(name, shape, json.load(open(f"{folder}/{name}")))
print(*problems, sep="\n")
sys.exit(bool(problems))
PY
same "the version" '["version"]' "$("$IMAGEFS" --version --json | field 'list(j)')"

# The standard output.
for arguments in ls images status "status --json" "inspect $ref" "--version" "--help" "help mount" "ls --json"; do
  status=0
  ifs images >/dev/null
  ifs $arguments >/dev/full 2>"$T/err" || status=$?
  same "status of $arguments on a full disk" 1 $status
  same "what it says" "imagefs: standard output: No space left on device" "$(cat "$T/err")"
  status=0
  ifs $arguments >&- 2>"$T/err" || status=$?
  same "status of $arguments without an output" 1 $status
done
ifs mount -q "$ref" "$M/a" >/dev/full 2>/dev/null && fail "mount says 0 though its line is lost"
grep -q root "$M/a/etc/passwd" || fail "not mounted"
ifs umount "$M/a" >&- 2>&- <&- || fail "umount without descriptors"
ifs stop
ifs images <&- 2>&- | grep -q DIGEST || fail "no output where the others are closed"
(trap '' PIPE; status=0; "$IMAGEFS" --root "$ROOT" --run "$RUN" images 2>"$T/err" || status=$?; echo $status >"$T/status") | true
wait_for 10 "[ -s '$T/status' ]"
same "status where nobody reads" 1 "$(cat "$T/status")"
same "what it says then" "" "$(cat "$T/err")"
ifs stop
