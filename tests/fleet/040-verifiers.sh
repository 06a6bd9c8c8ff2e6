#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The example verifiers with the programs that they call, cosign 3 and notation of Debian sid, and docker-registry, which has
# no referrers API: signed, unsigned, signed with another key, and the index of several platforms, signed alone.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_fuse
peers=$SOURCE/build/peers/verifiers
timeout 600 "$SOURCE/scripts/unpack.sh" sid "$peers" cosign notation >"$T/unpack.out" 2>&1 ||
  { tail -3 "$T/unpack.out"; rm -rf "$peers"; skip "cosign and notation could not be had from the Debian mirror"; }
cosign=$peers/usr/bin/cosign notation=$peers/usr/bin/notation
start_registry registry
# Each of its own bytes: a signature is of a digest, whatever its name.
i=0
for name in signed unsigned wrong; do big_image "$name" "v$((++i))=1"; push "$T/images/$name" "test/$name:1"; done
export HOME=$T/home COSIGN_PASSWORD='' XDG_CONFIG_HOME=$T/notation
mkdir -p "$HOME" "$XDG_CONFIG_HOME/notation" "$T/keys" "$M/a"
in_keys() { (cd "$T/keys" && timeout 100 "$@" >>"$T/signing.out" 2>&1) || { tail -5 "$T/signing.out"; fail "$*"; }; }
for key in right wrong; do in_keys "$cosign" generate-key-pair --output-key-prefix "$key"; in_keys "$notation" cert generate-test "$key.test"; done
cat >"$XDG_CONFIG_HOME/notation/trustpolicy.json" <<'J'
{"version": "1.0", "trustPolicies": [{"name": "all", "registryScopes": ["*"], "trustStores": ["ca:right.test"],
  "signatureVerification": {"level": "strict"}, "trustedIdentities": ["*"]}]}
J
sign_with_cosign() { in_keys "$cosign" sign --yes --key "$1.key" --use-signing-config=false --tlog-upload=false "$2"; }
sign_with_notation() { in_keys "$notation" sign --insecure-registry --key "$1.test" "$2"; }
cat >"$T/verifiers.cosign.conf" <<C
COSIGN=$cosign COSIGN_KEY=$T/keys/right.pub COSIGN_ARGUMENTS=--insecure-ignore-tlog=true
C
cat >"$T/verifiers.notation.conf" <<C
NOTATION=$notation NOTATION_HOME=$T/notation NOTATION_ARGUMENTS=--insecure-registry
C
# The programs of several platforms: cosign and notation sign what the tag names.
$PY - "$LIB" "$T/images/multi" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
layout = sys.argv[2]
simple_image(layout, [Tar().file("file", b"of several platforms")])
of_platforms(layout)
P
push "$T/images/multi" test/multi:1
for tool in cosign notation; do
  store "$tool"
  rm -rf "$T/verifiers" "$T/conf"
  mkdir -m 755 "$T/verifiers" "$T/conf"
  cp "$T/verifiers.$tool.conf" "$T/conf/$tool.conf"
  install -m 755 "$SOURCE/packaging/verifiers/$tool" "$T/verifiers/$tool"
  configure '[fill]' 'background = false' '[verify]' "bin_dir = \"$T/verifiers\"" 'timeout = "60s"'
  export IMAGEFS_VERIFIERS=$T/conf
  sign_with_$tool right "$REGISTRY/test/signed@$(manifest_of signed)"
  sign_with_$tool right "$REGISTRY/test/multi@$(manifest_of multi)"
  sign_with_$tool wrong "$REGISTRY/test/wrong@$(manifest_of wrong)"
  for name in signed multi; do
    ifs mount -q "$REGISTRY/test/$name:1" "$M/a" >/dev/null || fail "$tool: $name: $(tail -3 "$RUN/daemon.log")"
    ifs umount "$M/a"
  done
  for name in unsigned wrong; do
    refuse 5 "test/$name:1 is denied by verification: .*/$tool: it ended with status 1: ." ifs mount -q "$REGISTRY/test/$name:1" "$M/a"
    cat "$T/err"
  done
  refuse 5 'not an image of a registry' ifs mount -q "oci:$T/images/signed" "$M/a"
  ifs stop >/dev/null
  # A name that no file is about; a file that allows all; a registry that does not answer.
  sed -i "s@^@$(tr a-z A-Z <<<$tool)_IMAGES='elsewhere.test/*' @" "$T/conf/$tool.conf"
  refuse 5 "no $tool.*conf in .* is about $REGISTRY/test/signed:1" ifs mount -q "$REGISTRY/test/signed:1" "$M/a"
  echo "$(tr a-z A-Z <<<$tool)_ALLOW=yes" >"$T/conf/$tool-others.conf"
  ifs mount -q "$REGISTRY/test/unsigned:1" "$M/a" >/dev/null
  ifs umount "$M/a"
  ifs stop >/dev/null
done
