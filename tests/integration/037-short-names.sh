#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Names without a host: completed by the caller's registries.conf as hosts.short_names says, by every verb.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
image plain
push "$T/images/plain" test/plain:1
export CONTAINERS_REGISTRIES_CONF=$T/registries.conf
cat >"$T/registries.conf" <<TOML
unqualified-search-registries = ["$REGISTRY"]
[aliases]
short = "$REGISTRY/test/plain"
TOML
references() { ifs images --json | field 'sorted({i["reference"] for i in j})'; }

# By default: aliases, and what has none is of docker.io.
ifs pull -q short:1 >/dev/null
same "an alias" "[\"$REGISTRY/test/plain:1\"]" "$(references)"
ifs mount -q --pull never short:1 "$M" >/dev/null
grep -q root "$M/etc/passwd" || fail "no content"
ifs umount "$M"
ifs check short:1 >/dev/null
refuse 4 'docker\.io/test/plain:1' ifs pull -q --pull never test/plain:1
# A host is one.
refuse 4 "$REGISTRY/short:1" ifs pull -q --pull never "$REGISTRY/short:1"
ifs rm short:1 >/dev/null
same "removed by its short name" "[]" "$(references)"

# The command's own configuration says which files count.
ifs stop
cat >"$T/search.toml" <<TOML
[hosts]
short_names = "search"
TOML
export IMAGEFS_CONFIG=$T/search.toml
ifs pull -q test/plain:1 >/dev/null
ifs pull -q short:1 >/dev/null
same "a search registry" "[\"$REGISTRY/test/plain:1\"]" "$(references)"
ifs stop
cat >"$T/docker.toml" <<TOML
[hosts]
short_names = "docker"
TOML
export IMAGEFS_CONFIG=$T/docker.toml
refuse 4 'docker\.io/library/short:1' ifs pull -q --pull never short:1
ifs stop
unset CONTAINERS_REGISTRIES_CONF
cat >"$T/named.toml" <<TOML
[hosts]
containers = ["$T/registries.conf"]
TOML
export IMAGEFS_CONFIG=$T/named.toml
ifs pull -q --pull never short:1 >/dev/null
mkdir "$T/registries.conf.d"
echo 'aliases = 1' >"$T/registries.conf.d/wrong.conf"
refuse 1 'registries.conf.d/wrong.conf:1: aliases' ifs pull -q --pull never short:1
ifs pull -q --pull never "$REGISTRY/test/plain:1" >/dev/null
