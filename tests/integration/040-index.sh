#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# imagefs index: what is pushed and where it is found, how large it is, what a second push sends, archives,
# other repositories, whom the configuration believes, publishing without being asked, refusals.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip
subject=$(manifest_of app)
beside=sha256-${subject#sha256:}
refused_so_far() { grep -c index.refused "$RUN/daemon.log" || true; }

# What is pushed: an artifact with the image as its subject, a blob for each layer, found by two tags.
store pusher
ifs index -q --push --json "$SHAPED/test/app:1" >"$T/pushed.json"
same "repository" "$SHAPED/test/app" "$(field 'j["repository"]' <"$T/pushed.json")"
same "manifest" "$subject" "$(field 'j["manifest"]' <"$T/pushed.json")"
same "this registry lists nothing by itself" true "$(field 'j["listed_by_tag"]' <"$T/pushed.json")"
lazy manifest "$REGISTRY/test/app" "$beside.imagefs" >"$T/artifact.json" 2>"$T/digest"
same "artifact" "$(field 'j["artifact"]' <"$T/pushed.json")" "$(cat "$T/digest")"
same "type" application/vnd.imagefs.index.v1+json "$(field 'j["artifactType"]' <"$T/artifact.json")"
same "subject" "$subject" "$(field 'j["subject"]["digest"]' <"$T/artifact.json")"
same "size of the subject" "$(stat -c %s "$T/images/app/blobs/sha256/${subject#sha256:}")" "$(field 'j["subject"]["size"]' <"$T/artifact.json")"
same "configuration" application/vnd.oci.empty.v1+json "$(field 'j["config"]["mediaType"]' <"$T/artifact.json")"
same "types of its layers" '["application/vnd.imagefs.layer-index.v2+zstd", "application/vnd.imagefs.layer-windows.v1"]' "$(field 'sorted({l["mediaType"] for l in j["layers"]})' <"$T/artifact.json")"
same "layers" "$(lazy manifest "$REGISTRY/test/app" 1 2>/dev/null | field '[l["digest"] for l in j["layers"]]')" \
  "$(field '[l["annotations"]["dev.imagefs.layer"] for l in j["layers"] if "index" in l["mediaType"]]' <"$T/artifact.json")"
same "DiffIDs" "$(ifs inspect --json "$SHAPED/test/app:1" | field '[l["diff_id"] for l in j["layers"]]')" \
  "$(field '[l["annotations"]["dev.imagefs.diff-id"] for l in j["layers"] if "index" in l["mediaType"]]' <"$T/artifact.json")"
lazy manifest "$REGISTRY/test/app" "$beside" >"$T/list.json" 2>/dev/null
same "listed" "[\"$(cat "$T/digest")\"]" "$(field '[m["digest"] for m in j["manifests"]]' <"$T/list.json")"
same "as" '["application/vnd.imagefs.index.v1+json"]' "$(field '[m["artifactType"] for m in j["manifests"]]' <"$T/list.json")"

# Again: nothing is sent, and nothing is listed twice.
ifs index -q --push --json "$SHAPED/test/app:1" >"$T/again.json"
same "sent by a second push" 0 "$(field 'j["sent_bytes"]' <"$T/again.json")"
same "the same artifact" "$(cat "$T/digest")" "$(field 'j["artifact"]' <"$T/again.json")"
same "entries in the list" 1 "$(lazy manifest "$REGISTRY/test/app" "$beside" 2>/dev/null | field 'len(j["manifests"])')"
# Another machine's span table may have its entry points elsewhere, as its bytes came in other pieces, and
# then it is another artifact: the tag names the one that was pushed last.
store other
ifs index -q --push --json "$SHAPED/test/app:1" >"$T/again.json"
lazy manifest "$REGISTRY/test/app" "$beside.imagefs" >/dev/null 2>"$T/digest"
same "what the tag names" "$(field 'j["artifact"]' <"$T/again.json")" "$(cat "$T/digest")"
ifs index -q --push "$SHAPED/test/app:1" | grep -q "published to $SHAPED/test/app as sha256:" || fail "what it says"

# Size: at most 3 % of a layer of real programs and documentation.
lazy system "$T/images/system" 24
push "$T/images/system" test/system:1
ifs index -q -o "$T/system.tar" --json "$SHAPED/test/system:1" >"$T/size.json"
field '"share of a real layer: %.2f %%" % (100 * j["layers"][0]["index_bytes"] / j["layers"][0]["blob_bytes"])' <"$T/size.json"
same "small" true "$(field '0 < j["layers"][0]["index_bytes"] <= 0.03 * j["layers"][0]["blob_bytes"]' <"$T/size.json")"

# An archive that others can read; nothing is pushed.
same "pushed nowhere" "" "$(field 'j["repository"]' <"$T/size.json")"
skopeo inspect --raw "oci-archive:$T/system.tar" >"$T/raw.json"
same "type in the archive" application/vnd.imagefs.index.v1+json "$(field 'j["artifactType"]' <"$T/raw.json")"
same "artifact" "$(field 'j["artifact"]' <"$T/size.json")" "sha256:$(sha256sum <"$T/raw.json" | cut -d' ' -f1)"
skopeo --insecure-policy copy -q --dest-tls-verify=false "oci-archive:$T/system.tar" "docker://$REGISTRY/test/copied:1" ||
  fail "skopeo does not copy the archive"
same "as copied" "$(sha256sum <"$T/raw.json")" "$(skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/test/copied:1" | sha256sum)"

# In another repository, of which only the configuration knows.
lazy_image far gzip 2
far=$(manifest_of far)
ifs index -q --to "$REGISTRY/indexes/all" --json "$SHAPED/test/far:1" >"$T/far.json"
same "where" "$REGISTRY/indexes/all" "$(field 'j["repository"]' <"$T/far.json")"
lazy manifest "$REGISTRY/test/far" "sha256-${far#sha256:}.imagefs" >/dev/null 2>&1 && fail "it lies beside the image as well"
lazy manifest "$REGISTRY/indexes/all" "sha256-${far#sha256:}.imagefs" >/dev/null 2>&1 || fail "it is not where it should be"
mkdir -p "$M"/{nothing,configured,beside,known,off}
store nothing
ifs mount -q "$SHAPED/test/far:1" "$M/nothing" >/dev/null
same "layers shown early without a word in the configuration" 0 "$(counter layers_lazy)"
configure '[fill]' 'background = false' '[index]' "repositories = [\"$REGISTRY/indexes/all\"]"
store configured
forget_requests
ifs mount -q "$SHAPED/test/far:1" "$M/configured" >/dev/null
same "layers shown early" 2 "$(counter layers_lazy)"
same "bytes of layers" 0 "$(sent far)"

# Whom the configuration believes.
configure '[fill]' 'background = false' '[index]' 'trust = "configured"' "repositories = [\"$REGISTRY/indexes/all\"]"
store careful
forget_requests
ifs mount -q "$SHAPED/test/app:1" "$M/beside" >/dev/null
same "layers shown early by an index that is not believed" 0 "$(counter layers_lazy)"
same "questions about it" 0 "$(grep -c "$beside" "$SHAPER/requests" || true)"
ifs mount -q "$SHAPED/test/far:1" "$M/known" >/dev/null
same "layers shown early by one that is" 2 "$(counter layers_lazy)"
configure '[index]' 'lookup = false'
store off
ifs mount -q "$SHAPED/test/app:1" "$M/off" >/dev/null
same "layers shown early without looking" 0 "$(counter layers_lazy)"

# Publishing without being asked: after a first pass, once.
lazy_image fleet gzip 3
fleet=$(manifest_of fleet)
configure '[fill]' 'background = false' '[index]' 'publish = true' 'publish_spread = "off"'
for k in first second third; do
  mkdir -p "$M/$k"
  store "$k"
  [ $k = third ] && configure '[index]' 'publish = true' 'publish_spread = "off"' 'lookup = false'
  ifs mount -q "$REGISTRY/test/fleet:1" "$M/$k" >/dev/null
  case $k in
    first) wait_for 30 'log_says index.published' || fail "not published: $(cat "$RUN/daemon.log")" ;;
    second) same "layers shown early, second machine" 2 "$(counter layers_lazy)" ;;
    # It made a pass of its own, finds what the first has published, and leaves it.
    third) wait_for 30 'grep -q "GET .*sha256-${fleet#sha256:} .*" "$REGISTRY_LOG"' || fail "nobody asked whether there is one" ;;
  esac
  ifs umount --all
  ifs stop
  wait_for 10 '[ -z "$(daemons_of "$T/store-$k/")" ]' || fail "the daemon does not stop"
  [ $k = first ] || ! log_says index.publish || fail "$k: $(grep index.publish "$RUN/daemon.log")"
done
same "artifacts pushed" 1 "$(grep -c "PUT /v2/test/fleet/manifests/sha256-${fleet#sha256:}.imagefs" "$REGISTRY_LOG")"
same "artifacts of it" 1 "$(lazy manifest "$REGISTRY/test/fleet" "sha256-${fleet#sha256:}" 2>/dev/null | field 'len(j["manifests"])')"

# Refusals name the thing, the cause and the remedy.
configure
store refused
refuse 2 'index takes --push.*imagefs help index' ifs index "$REGISTRY/test/app:1"
refuse 2 'reference|repository' ifs index --to 'no//thing' "$REGISTRY/test/app:1"
refuse 2 'REF' ifs index --push
refuse 2 'ACTION' ifs profile paint "$REGISTRY/test/app:1"
refuse 4 'test/absent' ifs index -q --push "$REGISTRY/test/absent:1"
refuse 4 '/nowhere/at/all' ifs index -q -o /nowhere/at/all/x.tar "$REGISTRY/test/app:1"
refuse 8 '127.0.0.1:1' ifs index -q --to 127.0.0.1:1/indexes "$REGISTRY/test/app:1"
refuse 4 'no profile of that image.*first started' ifs index -q --push --profile "$REGISTRY/test/app:1"
printf '[index]\ntrust = "everybody"\n' >"$T/bad.toml"
store badly
refuse 7 'bad.toml:2: index.trust must be "repository" or "any" or "configured"' ifs --config "$T/bad.toml" images
