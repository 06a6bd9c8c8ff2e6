#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The log: one line for each mount, pull, unmount and failure, which logfmt parsers read; one id from the call to the
# requests that it causes; levels by option, configuration and at run time; fields in the journal; docs/log.md names all.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
big_image app a=3 b=1; push "$T/images/app" test/app:1
ref=$REGISTRY/test/app:1
# One JSON object a line of the log; fails where one is not `TIME LEVEL EVENT key=value key="va lue"...`.
parsed() {
  $PY - "$RUN/daemon.log" <<'P'
import json, re, sys
for line in open(sys.argv[1]):
    m = re.fullmatch(r'\S+ (debug|info|warning|error) ([^ ="]+(?: [^ ="]+)*)((?: [a-z0-9_]+=(?:"(?:[^"\\]|\\.)*"|[^ "=]*))*)\n', line)
    if not m: sys.exit("not logfmt: " + line)
    fields = {k: re.sub(r'\\(.)', r'\1', v[1:-1]) if v.startswith('"') else v
              for k, v in re.findall(r' ([a-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^ "=]*)', m[3])}
    print(json.dumps({"level": m[1], "event": m[2], **fields}))
P
}
last() { parsed >"$T/parsed"; grep "\"event\": \"$1\"" "$T/parsed" | tail -1; }   # last EVENT

# ---- one line each
mkdir "$M/a b"
ifs mount -q "$ref" "$M/a b" >/dev/null
last mount.finished >"$T/line"
same "mount" "$ref $M/a b 2 0 mounted" "$(field '" ".join([j["reference"], j["directory"], j["layers"], j["reused"], j["state"]])' <"$T/line")"
[ "$(field 'j["fetched_bytes"]' <"$T/line")" -gt 4000000 ] || fail "bytes: $(cat "$T/line")"
field '[int(j[k]) for k in ("resolve_ms", "layers_ms", "mount_ms", "total_ms", "call")] and j["mode"] and j["manifest"]' <"$T/line" >/dev/null
ifs umount "$M/a b"
same "unmount" "$ref $M/a b" "$(last unmount.finished | field 'j["reference"] + " " + j["directory"]')"
ifs pull -q "$ref" >/dev/null
same "pull" "$ref 2 0" "$(last pull.finished | field '" ".join([j["reference"], j["reused"], j["fetched_bytes"]])')"
ifs mount -q "$REGISTRY/test/none:1" "$M/a b" >/dev/null 2>&1 && fail "it is not there"
same "failure" "warning $REGISTRY/test/none:1 resolving NOT_FOUND" "$(last mount.failed | field '" ".join([j["level"], j["reference"], j["phase"], j["code"]])')"
last mount.failed | field 'j["cause"]' | grep -q 'does not exist' || fail "no cause: $(last mount.failed)"

# ---- the level, at run time and at the start
same "level" info "$(ifs log-level)"
same "level in JSON" '{"level": "debug"}' "$(ifs log-level --json debug | field j)"
refuse 2 'LEVEL' ifs log-level loud
refuse 6 'log-level warning' ifs --log-level warning ls
ifs rm "$ref" >/dev/null
ifs mount -q "$ref" "$M/a b" >/dev/null
call=$(last mount.finished | field 'j["call"]')
# Every request of that mount, to the socket, has its number; so do the flights.
grep '"event": "http.response"' "$T/parsed" | grep "\"call\": \"$call\"" >"$T/requests"
same "requests" 4 "$(wc -l <"$T/requests")"
same "their bytes" True "$($PY -c 'import json, sys; print(sum(int(json.loads(l)["bytes"]) for l in sys.stdin) > 4000000)' <"$T/requests")"
grep -q "\"event\": \"flight.began\".*\"flight\": \"layer\".*\"call\": \"$call\"" "$T/parsed" || fail "no flight of call $call"
ifs umount "$M/a b"
ifs log-level error >/dev/null
lines=$(wc -l <"$RUN/daemon.log")
ifs mount -q "$ref" "$M/a b" >/dev/null; ifs umount "$M/a b"
same "lines at level error" "$lines" "$(wc -l <"$RUN/daemon.log")"
ifs stop
configure '[log]' 'level = "warning"'
same "level of the configuration" warning "$(ifs ls >/dev/null; ifs log-level)"
ifs stop
configure '[log]' 'level = "loud"'
refuse 7 'log.level must be' "$IMAGEFS" --check-config "$T/config.toml"
configure '[log]' 'level = "info"'

# ---- a reader that waits: its requests name layer and reader
lazy_image lazy gzip 5 4
publish lazy
ifs --log-level debug ls >/dev/null
ifs mount -q "$REGISTRY/test/lazy:1" "$M/a b" >/dev/null
find "$M/a b" -type f -exec cat {} + >/dev/null
parsed >"$T/parsed"
grep '"event": "http.response"' "$T/parsed" | grep '"layer": ' | grep -q '"reader": "[1-9]' || fail "no request names its reader: $(grep http.response "$T/parsed" | tail -3)"
ifs umount "$M/a b"; ifs stop

# ---- the journal, as systemd connects it: fields, not text to take apart
cat >"$T/journal.py" <<'P'
import os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/run/systemd/journal/socket")
open(sys.argv[1] + ".ready", "w").close()
with open(sys.argv[1], "ab") as out:
    while True:
        data, at = s.recv(1 << 20), 0
        while at < len(data):   # KEY=value\n, or KEY\n, 8 bytes of size, value, \n
            end = data.index(b"\n", at)
            line, at = data[at:end], end + 1
            if b"=" not in line:
                size, = struct.unpack_from("<Q", data, at)
                line, at = line + b"=" + data[at + 8:at + 8 + size], at + 8 + size + 1
            out.write(line.replace(b"\n", b" ") + b"\x1f")
        out.write(b"\n"); out.flush()
P
cat >"$T/journal.sh" <<'S'
set -e
mount -t tmpfs tmpfs /run/systemd 2>/dev/null || { mkdir -p /run/systemd; mount -t tmpfs tmpfs /run/systemd; }
mkdir /run/systemd/journal
/usr/bin/python3 "$T/journal.py" "$T/journal" & journal=$!
while [ ! -e "$T/journal.ready" ]; do sleep 0.05; done
exec 2>"$T/journal.stderr"
export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)
"${IMAGEFS}d" --root "$ROOT" --run "$RUN" daemon & daemon=$!
while ! "$IMAGEFS" --root "$ROOT" --run "$RUN" status >/dev/null 2>&1; do sleep 0.1; done
"$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$ref" >/dev/null
kill $daemon; wait $daemon || true
kill $journal
S
rm -rf "$RUN"
export T ROOT RUN IMAGEFS ref
unshare -m --propagation private bash "$T/journal.sh" || fail "the journal's part"
grep -a 'IMAGEFS_EVENT=pull.finished' "$T/journal" | tr '\037' '\n' >"$T/entry"
for field in PRIORITY=6 SYSLOG_IDENTIFIER=imagefsd "IMAGEFS_REFERENCE=$ref" IMAGEFS_LAYERS=2 \
  "MESSAGE_ID=$(printf 'imagefs event pull.finished' | sha256sum | cut -c1-32)"; do
  grep -qxF "$field" "$T/entry" || fail "the journal lacks $field: $(cat "$T/entry")"
done
grep -q '^MESSAGE=pull.finished reference=' "$T/entry" || fail "no message: $(cat "$T/entry")"
[ ! -s "$T/journal.stderr" ] || fail "also on stderr: $(cat "$T/journal.stderr")"

# ---- docs/log.md names every event that is logged at info or above
(cd "$SOURCE" && cat base/*.cc fetch/*.cc cache/*.cc fs/*.cc snap/*.cc cmd/*.cc) | tr '\n' ' ' |
  grep -oE 'Log(Info|Warning|Error)\( *"[a-z_]+(\.[a-z_]+)?[ "]' | sed -E 's/.*"([a-z_.]+).*/\1/' | sort -u >"$T/events"
[ "$(wc -l <"$T/events")" -gt 100 ] || fail "events are not found"
while read -r event; do grep -qF "\`$event\`" "$SOURCE/docs/log.md" || fail "docs/log.md lacks $event"; done <"$T/events"
