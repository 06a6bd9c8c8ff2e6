#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Image verifiers: programs of the administrator are asked once about every image before anything of it is fetched or shown,
# whoever asks: mount, pull, add, index, export-store, inspect, and an image that was in the store before. What they deny,
# what takes too long, and programs that others may change, are refused with the reason.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_fuse
start_registry registry
mkdir -m 755 "$T/verifiers"
: >"$T/calls"
big_image big a=2 b=1
for name in good bad; do push "$T/images/big" "test/$name:1"; done
good=$REGISTRY/test/good:1 bad=$REGISTRY/test/bad:1
digest=$(manifest_of big)

# program NAME SCRIPT: a verifier.
program() { printf '#!/bin/sh\n%s\n' "$2" >"$T/verifiers/$1"; chmod 755 "$T/verifiers/$1"; }
sums() { (cd "$1" && find . -type f | sort | xargs sha256sum | sha256sum); }
runs() { grep -c "^-name" "$T/calls" 2>/dev/null || true; }
verify() { configure '[fill]' 'background = false' '[verify]' "bin_dir = \"$T/verifiers\"" "$@"; }
restart() { ifs stop >/dev/null; verify "$@"; }
program 10-names "echo \"\$@\" >>$T/calls; cat >>$T/calls; echo >>$T/calls
case \$2 in */test/bad:*) echo 'nobody has signed it'; exit 1 ;; esac"

# ---- before verification is configured: an image gets into the store, and is mounted
mkdir "$M/before" "$M/a"
ifs mount -q "$bad" "$M/before" >/dev/null
before=$(sums "$M/before")
ifs stop >/dev/null

# ---- then: what is mounted stays, but the image is not shown again
verify
same "programs that have run" 0 "$(runs)"
same "mounted before" "$before" "$(sums "$M/before")"
denied="test/bad:1 is denied by verification: $digest: $T/verifiers/10-names: it ended with status 1: nobody has signed it; use an image"
refuse 5 "$denied" ifs mount -q "$bad" "$M/a"
refuse 5 "$denied" ifs mount -q --pull never "$bad" "$M/a"
same "not mounted" "" "$(ls -A "$M/a")"
ifs umount "$M/before"
same "programs that have run" 2 "$(runs)"

# ---- every way to an image, in a store that does not know it: nothing of its layers is fetched
store fresh
for verb in "mount -q $bad $M/a" "mount -q --eager $bad $M/a" "pull -q $bad" "pull -q --pull always $bad" "inspect $bad" \
  "index -q $bad -o $T/index.tar" "export-store -q $T/shared $bad" "mount -q oci:$T/images/big $M/a"; do
  case $verb in *oci:*) program 20-no-files 'case $2 in oci:*) echo "no registry"; exit 1 ;; esac' ;; esac
  refuse 5 "is denied by verification" ifs $verb
done
[ "$(id -u)" != 0 ] || refuse 5 "$denied" ifs add -q "$bad"
same "layers" 0 "$(ifs status --json | field 'len(j["layers"])')"
same "images" 0 "$(ifs images --all --json | field 'len(j)')"
same "bytes of blobs" 0 "$(counter blob_bytes_fetched)"
[ ! -e "$T/shared" ] || same "exported" "" "$(ls "$T/shared/images" 2>/dev/null)"

# ---- allowed: the contract's arguments and input, and one run for many callers
: >"$T/calls"
mkdir "$M/s"{1..12}
program 15-slow "while ! test -e $T/go; do sleep 0.05; done"
one_of() { ifs mount -q "$good" "$M/s$1"; }
(wait_for 60 '[ "$(ifs status --json | field "j[\"flights\"][\"verify\"][\"waiting\"]")" = 12 ]' && touch "$T/go") &
opens=$!
storm 12 one_of
wait $opens
same "arguments" "-name $good -digest $digest -stdin-media-type application/vnd.oci.descriptor.v1+json" "$(sed -n 1p "$T/calls")"
same "input" "[\"application/vnd.oci.image.manifest.v1+json\", \"$digest\", true]" "$(sed -n 2p "$T/calls" | field '[j["mediaType"], j["digest"], j["size"] > 100]')"
same "runs" 1 "$(runs)"
for i in 1 12; do same "mount $i" "$before" "$(sums "$M/s$i")"; done
ifs pull -q "$good" >/dev/null
same "runs" 1 "$(runs)"
same "counters" "1 1" "$(counter verify_allowed) $(ifs status --json | field 'int(j["counters"]["verify_denied"] > 0)')"
ifs umount --all >/dev/null

# ---- an image of several platforms: asked about the index, which is what is signed
$PY - "$LIB" "$T/images" "$REGISTRY" <<'P' >"$T/top"
import hashlib, json, os, sys
sys.path.insert(0, sys.argv[1])
from oci import *
layout = os.path.join(sys.argv[2], "multi")
simple_image(layout, [Tar().file("file", b"text")])
index = json.load(open(layout + "/index.json"))
entry = index["manifests"][0]
entry["platform"] = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]}
body = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}).encode()
digest = hashlib.sha256(body).hexdigest()
open(layout + "/blobs/sha256/" + digest, "wb").write(body)
index["manifests"] = [{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + digest, "size": len(body)}]
json.dump(index, open(layout + "/index.json", "w"))
print("sha256:" + digest, len(body))
P
push "$T/images/multi" test/multi:1
read -r top size <"$T/top"
: >"$T/calls"
ifs mount -q "$REGISTRY/test/multi:1" "$M/a" >/dev/null
same "name and digest" "-name $REGISTRY/test/multi:1 -digest $top" "$(sed -n 1p "$T/calls" | cut -d" " -f1-4)"
same "index" "[\"application/vnd.oci.image.index.v1+json\", \"$top\", $size]" "$(sed -n 2p "$T/calls" | field '[j["mediaType"], j["digest"], j["size"]]')"
ifs umount "$M/a"
restart
: >"$T/calls"
ifs mount -q --pull never "$REGISTRY/test/multi:1" "$M/a" >/dev/null
same "from the record" "[\"$top\", $size]" "$(sed -n 2p "$T/calls" | field '[j["digest"], j["size"]]')"
ifs umount "$M/a"

# ---- programs that are not as they should be
program 15-slow 'sleep 1000'
restart 'timeout = "1s"'
refuse 5 "test/good:1 is denied by verification: $digest: $T/verifiers/15-slow: no answer within 1 seconds; .*timeout in \[verify\]" ifs mount -q "$good" "$M/a"
rm "$T/verifiers/15-slow"
chmod g+w "$T/verifiers/20-no-files"
refuse 5 "20-no-files can be written by others; run: chmod go-w" ifs mount -q "$good" "$M/a"
chmod g-w "$T/verifiers/20-no-files"
chmod o+w "$T/verifiers"
refuse 5 "verifiers can be written by others" ifs mount -q "$good" "$M/a"
chmod o-w "$T/verifiers"
ifs mount -q "$good" "$M/a" >/dev/null
ifs umount "$M/a"
mv "$T/verifiers" "$T/elsewhere"
restart
refuse 5 "is denied by verification: $T/verifiers: no such file.*bin_dir in \[verify\]" ifs mount -q "$good" "$M/a"
mkdir -m 755 "$T/verifiers"
: >"$T/calls"
refuse 5 "$T/verifiers has no program" ifs mount -q "$good" "$M/a"
ifs stop >/dev/null
configure '[verify]' 'require = true'
refuse 5 'require is set in \[verify\], but bin_dir is not' ifs mount -q "$good" "$M/a"
ifs stop >/dev/null
configure '[verify]' 'bin_dir = "relative"'
refuse 7 'verify.bin_dir must be an absolute path' ifs mount -q "$good" "$M/a"
