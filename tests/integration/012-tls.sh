#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# TLS: a certificate of an unknown CA is refused with a remedy; with the CA among the system's it
# works; --tls-skip-verify is an explicit choice.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need openssl; need htpasswd
bundle=/etc/ssl/certs/ca-certificates.crt
[ -e $bundle ] || skip "no $bundle"
# A mount namespace of its own, to add a CA to the system's without touching the machine.
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  status=0
  IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
  exit $status
fi
start_registry registry tls htpasswd
image plain
push "$T/images/plain" test/plain:1 --user 'tester:se cret:1' --ca "$T/registry/ca.pem"
printf '{"auths": {"%s": {"auth": "%s"}}}' "$REGISTRY" "$(printf 'tester:se cret:1' | base64 -w0)" >"$DOCKER_CONFIG/config.json"
ref=$REGISTRY/test/plain:1
mkdir "$M/a"
refuse 1 'certificate' ifs mount -q "$ref" "$M/a"
nothing_left "$M"
ifs pull -q --tls-skip-verify "$ref" >/dev/null
ifs stop
rm -rf "$ROOT"

cat $bundle "$T/registry/ca.pem" >"$T/bundle.pem"
mount --bind "$T/bundle.pem" $bundle
ifs mount -q "$ref" "$M/a" >/dev/null
grep -q root "$M/a/etc/passwd" || fail "no content"
umount $bundle
