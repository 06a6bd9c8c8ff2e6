#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every verb once, on a plain registry: mount, ls, images, inspect, status, pull, rm, umount, stop.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
image plain whiteouts xattrs
push "$T/images/plain" test/plain:1
push "$T/images/whiteouts" test/whiteouts:1
mkdir "$M/a" "$M/b"
ref=$REGISTRY/test/plain:1

# status of nothing starts nothing; ls does, since a daemon may have mounts to bring back.
refuse 7 'daemon' ifs status
[ -z "$(daemons)" ] || fail "status started a daemon"
same "ls of an empty store" "[]" "$(ifs ls --json | tr -d ' \n')"

ifs mount "$ref" "$M/a" --json >"$T/mount.json" 2>"$T/progress"
same directory "$M/a" "$(field 'j["directory"]' <"$T/mount.json")"
same reference "$ref" "$(field 'j["reference"]' <"$T/mount.json")"
modes >"$T/modes"
same "mode" "$(tail -n 1 "$T/modes")" "$(field 'j["mode"]' <"$T/mount.json")"
same "layers" 1 "$(field 'len(j["layers"])' <"$T/mount.json")"
same "writable" false "$(field 'j["writable"]' <"$T/mount.json")"
layer=$(field 'j["layers"][0]["digest"]' <"$T/mount.json")
size=$(stat -c %s "$T/images/plain/blobs/sha256/${layer#sha256:}")
same "fetched bytes" "$size" "$(field 'j["layers"][0]["fetched"] and j["fetched_bytes"]' <"$T/mount.json")"
field 'sorted(j["timings_ms"])' <"$T/mount.json" | grep -q layers || fail "no timings"
[ -s "$T/progress" ] || fail "no progress on stderr"

# The tree is readable now, and read-only.
same "content" "root:x:0:0::/:/bin/sh" "$(cat "$M/a/etc/passwd")"
same "link" "usr/lib" "$(readlink "$M/a/lib")"
same "through the link" 256000 "$(stat -L -c %s "$M/a/lib/big")"
! touch "$M/a/new" 2>/dev/null || fail "a read-only mount takes writes"
statvfs=$(stat -f -c '%b %c' "$M/a")
[ "${statvfs% *}" -gt 0 ] || fail "statfs says nothing: $statvfs"
getfattr -d -m - "$M/a/etc/passwd" >/dev/null || fail "listxattr"

# A second mount of the same image fetches nothing.
before=$(grep -c '"GET .*/blobs/' "$REGISTRY_LOG")
ifs mount -q "$ref" "$M/b" >"$T/out" 2>"$T/err"
[ ! -s "$T/err" ] || fail "-q is not quiet: $(cat "$T/err")"
same "lines on stdout" 1 "$(grep -c . "$T/out")"
same "blob requests of a second mount" "$before" "$(grep -c '"GET .*/blobs/' "$REGISTRY_LOG")"
same "mounts" "[\"$M/a\", \"$M/b\"]" "$(ifs ls --json | field 'sorted(m["directory"] for m in j)')"
ifs ls | grep -q "^$M/a  *$ref" || fail "ls: $(ifs ls)"

same "images" "[\"$ref\"]" "$(ifs images --json | field '[i["reference"] for i in j]')"
ifs images | grep -q "$ref" || fail "images: $(ifs images)"

ifs inspect "$ref" --json >"$T/inspect.json"
same "platform" linux/amd64 "$(field 'j["platform"]' <"$T/inspect.json")"
same "state" true "$(field 'all(l["state"] in ("written", "complete") for l in j["layers"])' <"$T/inspect.json")"
tar_digest=sha256:$(zcat "$T/images/plain/blobs/sha256/${layer#sha256:}" | sha256sum | cut -d' ' -f1)
same "DiffID" "$tar_digest" "$(field 'j["layers"][0]["diff_id"]' <"$T/inspect.json")"
same "ChainID" "$tar_digest" "$(field 'j["chain_id"]' <"$T/inspect.json")"
ifs inspect "$ref" | grep -q "$tar_digest" || fail "inspect does not show the DiffID"
# Inspecting what is not here resolves, and fetches no layer.
same "states" '["absent"]' "$(ifs inspect "$REGISTRY/test/whiteouts:1" --json | field 'sorted({l["state"] for l in j["layers"]})')"
wait_for 10 'grep -q "\"GET .*/whiteouts/blobs/" "$REGISTRY_LOG"' || fail "whose configuration is this?"
same "blobs that inspect fetched" 1 "$(grep -c '"GET .*/whiteouts/blobs/' "$REGISTRY_LOG")"

ifs pull -q "$REGISTRY/test/whiteouts:1" >/dev/null
same "images after pull" 2 "$(ifs images --json | field 'len({i["reference"] for i in j})')"
ifs status --json >"$T/status.json"
same "mounts in status" 2 "$(field 'j["mounts"]' <"$T/status.json")"
same "root in status" "$ROOT" "$(field 'j["root"]' <"$T/status.json")"
# Span tables are made by threads of the lowest urgency, after the pull.
runs() { ifs status --json | field 'sum(f["active"] + f["waiting"] + len(f["running"]) for f in j["flights"].values())'; }
wait_for 60 '[ "$(runs)" = 0 ]' || fail "something runs on: $(ifs status --json)"
same "pid in status" "$(daemons)" "$(field 'j["pid"]' <"$T/status.json")"
ifs status | grep -q "$ROOT" || fail "status says not where the store is"
same "socket mode" 600 "$(stat -c %a "$RUN/control.sock")"

# What a mount uses stays although its image is forgotten.
ifs rm "$ref" >/dev/null
same "content after rm" "root:x:0:0::/:/bin/sh" "$(cat "$M/b/etc/passwd")"
freed=$(ifs rm "$REGISTRY/test/whiteouts:1" --json | field 'j["freed_bytes"]')
[ "$freed" -gt 0 ] || fail "rm gave nothing back"
refuse 4 'no image' ifs rm "$REGISTRY/test/whiteouts:1"

(cd "$M/a" && refuse 6 'busy|in use' ifs umount "$M/a")
ifs umount "$M/a"
[ -z "$(ls -A "$M/a")" ] || fail "umount left something"
same "left" "[\"$M/b\"]" "$(ifs ls --json | field '[m["directory"] for m in j]')"
refuse 4 'not a mount' ifs umount "$M/a"
ifs umount --all
same "all unmounted" "[]" "$(ifs ls --json | tr -d ' \n')"
nothing_left "$M"
ifs stop
wait_for 10 '[ -z "$(daemons)" ]' || fail "stop did not stop the daemon"
nothing_left "$T"
[ ! -e "$RUN/control.sock" ] || fail "the socket is still there"
