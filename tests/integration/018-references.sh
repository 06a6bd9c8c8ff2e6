#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tags, digests, both; pull policies; platforms out of an index; docker and OCI types.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
image plain whiteouts platforms platforms-docker platforms-nested docker-schema2
push "$T/images/plain" test/plain:1
push "$T/images/whiteouts" test/plain:2
for name in platforms platforms-docker platforms-nested docker-schema2; do push "$T/images/$name" "test/$name:latest"; done
one=$(field 'j["manifests"][0]["digest"]' <"$T/images/plain/index.json")
two=$(field 'j["manifests"][0]["digest"]' <"$T/images/whiteouts/index.json")
manifest_of() { ifs "$@" --json | field 'j["manifest"]'; }

same "by tag" "$one" "$(manifest_of pull -q "$REGISTRY/test/plain:1")"
same "by digest" "$two" "$(manifest_of pull -q "$REGISTRY/test/plain@$two")"
same "tag and digest: the digest decides" "$two" "$(manifest_of pull -q "$REGISTRY/test/plain:1@$two")"

# The tag moves: missing and never stay, always follows.
push "$T/images/whiteouts" test/plain:1
same "missing" "$one" "$(manifest_of pull -q "$REGISTRY/test/plain:1")"
same "never" "$one" "$(manifest_of pull -q --pull never "$REGISTRY/test/plain:1")"
same "always" "$two" "$(manifest_of pull -q --pull always "$REGISTRY/test/plain:1")"
same "missing, after always" "$two" "$(manifest_of pull -q "$REGISTRY/test/plain:1")"
refuse 4 'never|not here|pull' ifs pull -q --pull never "$REGISTRY/test/plain:2"

for name in platforms platforms-docker platforms-nested; do
  for platform in linux/amd64 linux/arm64 linux/arm/v6 linux/arm/v7 linux/s390x; do
    mkdir -p "$M/p"
    ifs mount -q --platform $platform "$REGISTRY/test/$name" "$M/p" >/dev/null
    want=$(tr -d / <<<"${platform#linux/}")
    [ $platform != linux/arm64 ] || want=arm64v8
    same "$name $platform" "$want" "$(cat "$M/p/arch")"
    ifs umount "$M/p"
  done
  refuse 4 'platform.*(linux/amd64|available)|linux/mips' ifs pull -q --platform linux/mips "$REGISTRY/test/$name"
done
# Two platforms of one reference are two images.
same "platforms of one reference" 5 "$(ifs images --json | field "len([i for i in j if i['reference'].endswith('test/platforms:latest')])")"
ifs pull -q "$REGISTRY/test/docker-schema2" >/dev/null

refuse 2 'reference|invalid' ifs pull -q 'UPPER/case:bad tag'
refuse 2 'reference|invalid' ifs pull -q ''
