#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images without a registry: OCI layouts and archives, docker archives, with and without a tag.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain whiteouts zstd
$PY "$LIB/oci.py" archive "$T/images/whiteouts" "$T/oci.tar"
$PY "$LIB/oci.py" docker-archive "$T/images/whiteouts" "$T/docker.tar" some/name:tag
mkdir "$M"/{oci,tagged,archive,docker,dtag,zstd}
ifs mount -q "oci:$T/images/whiteouts" "$M/oci" >/dev/null
ifs mount -q "oci:$T/images/whiteouts:latest" "$M/tagged" >/dev/null
ifs mount -q "oci-archive:$T/oci.tar" "$M/archive" >/dev/null
ifs mount -q "docker-archive:$T/docker.tar" "$M/docker" >/dev/null
ifs mount -q "docker-archive:$T/docker.tar:some/name:tag" "$M/dtag" >/dev/null
# A relative path is one of the caller's, not of the daemon's.
(cd "$T/images" && ifs mount -q oci:zstd "$M/zstd" >/dev/null)
for other in tagged archive docker dtag; do
  $PY "$LIB/tree.py" compare "$M/oci" "$M/$other" || fail "$other differs"
done
grep -q root "$M/zstd/etc/passwd" || fail "no content"
refuse 4 'no-such|not' ifs pull -q "oci:$T/no-such"
refuse 4 'named missing' ifs pull -q "oci:$T/images/plain:missing"
refuse 4 'no-such|not' ifs pull -q "oci-archive:$T/no-such.tar"
echo "not a tar" >"$T/bad.tar"
refuse 1 'bad.tar' ifs pull -q "docker-archive:$T/bad.tar"
ifs umount --all
# The blobs that a layout does not have.
rm "$T"/images/plain/blobs/sha256/*
refuse 4 'plain' ifs pull -q "oci:$T/images/plain"
nothing_left "$M"
