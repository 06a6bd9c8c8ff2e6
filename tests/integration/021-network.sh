#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What registries and networks answer: unknown host, refused connection, 401, 403, 404, 429, 500,
# each one clear line, in bounded time; what may pass is retried, what stays is not.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
image plain
push "$T/images/plain" test/plain:1
start_proxy proxy
ref=$PROXY/test/plain:1
mkdir "$M/a"
mount_it() { ifs mount -q "$@" "$M/a"; }

refuse 8 'no-such-host.invalid' mount_it no-such-host.invalid/a/b:1
refuse 8 '127.0.0.1:1.*(refused|connect)|(refused|connect).*127.0.0.1:1' mount_it 127.0.0.1:1/a/b:1
refuse 4 'test/none' mount_it "$PROXY/test/none:1"
refuse 4 'plain:none|none' mount_it "$PROXY/test/plain:none"
refuse 4 'plain' mount_it "$PROXY/test/plain@sha256:$(printf '0%.0s' {1..64})"

rules '[{"path": "/v2/", "status": 401, "headers": {"WWW-Authenticate": "Basic realm=\"x\""}}]'
refuse 5 'credential|login|401|unauthori' mount_it "$ref"
rules '[{"path": "/v2/", "status": 403, "body": "denied"}]'
refuse 5 'denied|403|forbidden|permission|anonymous' mount_it "$ref"
rules '[{"path": "/v2/", "status": 429, "headers": {"Retry-After": "0"}}]'
refuse 8 '429|too many' mount_it "$ref"
rules '[{"path": "/v2/", "status": 500}]'
refuse 8 '500|server' mount_it "$ref"
rules '[{"path": "manifests", "status": 200, "body": "<html>captive portal</html>", "headers": {"Content-Type": "text/html"}}]'
refuse 1 'manifest' mount_it "$ref"
rules '[{"path": "/v2/", "status": 301, "headers": {"Location": "/v2/loop"}}]'
refuse 1 'redirect' mount_it "$ref"
rules '[{"path": "/v2/", "status": 401, "headers": {"WWW-Authenticate": "Bearer realm=\"http://127.0.0.1:1/token\",service=\"s\""}}]'
refuse 1 'token|127.0.0.1:1' mount_it "$ref"
nothing_left "$M"
# The way to that token service is remembered: a new daemon asks anew.
ifs stop
wait_for 10 '[ -z "$(daemons)" ]' || fail "still running"

# Passing trouble is retried by itself.
rules '[{"path": "/v2/", "status": 503, "times": 1, "id": "a"},
        {"path": "manifests", "status": 429, "headers": {"Retry-After": "1"}, "times": 1, "id": "b"},
        {"path": "blobs", "cut": 100, "times": 1, "id": "c"}, {"path": "blobs", "status": 502, "times": 1, "id": "d"}]'
mount_it "$ref" >/dev/null
grep -q root "$M/a/etc/passwd" || fail "no content"
ifs umount "$M/a"
