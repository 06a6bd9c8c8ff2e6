#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A registry on a public address leads nobody into this machine's own networks: by redirects of manifests
# and blobs, by its token service, by the URLs in an image, by names, by other notations of an address, by
# a name server that changes its answer. One line says what was refused; nothing inside was asked. What may
# lead there does.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/hostile.sh"
need_root
own_network 203.0.113.1 198.51.100.7 10.9.9.9 192.168.7.7 172.20.1.1 100.70.1.1 169.254.7.7 169.254.169.254 100.100.100.200
ip addr add fd00:7::7/128 dev lo
start_hostile hostile
port=$HOSTILE_PORT
unset IMAGEFS_CONFIG
inside='0\.0\.0\.0|127\.0\.0\.1|10\.9\.|192\.168\.|172\.20\.|100\.70\.|169\.254|100\.100|fd00|localhost|inside|2130706433|0x7f'
number=0
# next HOST: sets REF to a reference that was not asked for before, so that nothing is remembered.
next() { number=$((number + 1)) REF=$1:$port/lead/$number:1; }
pull() {
  next "$1"
  timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q --plain-http "$REF"
}
# A token service on another host is asked by https only.
there() { [ "$1" = realm ] && echo https || echo http; }
asked() { cut -d' ' -f1,3 "$HOSTILE/log" | grep -cE "^($1)" || true; }

# refused WORD WHAT=URL...: neither pulled nor asked there.
refused() {
  local word=$1
  shift
  lead "$@"
  : >"$HOSTILE/log"
  refuse 1 "$word" pull "$registry"
  same "requests inside" 0 "$(asked "$inside")"
  ! grep -q 'INTERNAL-SECRET' "$HOSTILE/log" || fail "a secret from inside was sent out"
  ! grep -qE 'HTTP status|bytes' "$T/err" || fail "the message tells of what is inside: $(cat "$T/err")"
}

names inside.example=10.9.9.9 loop.example=127.0.0.1 evil.example=203.0.113.1
for registry in 203.0.113.1 evil.example; do
  for host in 127.0.0.1 10.9.9.9 192.168.7.7 172.20.1.1 100.70.1.1 169.254.7.7 '[::1]' '[fd00:7::7]' \
    '[::ffff:127.0.0.1]' 2130706433 0x7f000001 0.0.0.0 localhost inside.example loop.example; do
    for what in manifests blobs realm urls; do
      refused "$registry leads to .*(private|link-local|loopback) address.*\[network\]" \
        "$what=$(there "$what")://$host:$port/ok/${what%s}"
    done
  done
  for host in 169.254.169.254 100.100.100.200 '[::ffff:169.254.169.254]'; do
    for what in manifests blobs realm urls; do refused 'metadata service' "$what=$(there "$what")://$host:$port/secret"; done
  done
done

# A port that nobody listens on is refused with the same words as one with a server.
registry=203.0.113.1
refused '10.9.9.9.*private' "blobs=http://10.9.9.9:1/x"

# URLs of files are no URLs.
refused 'URL "file:///etc/shadow" refused' "urls=file:///etc/shadow"

# Public to public goes on working. (From here on the blobs are here, and only manifests are asked for.)
lead blobs="http://198.51.100.7:$port/ok/blob" manifests="http://198.51.100.7:$port/ok/manifest"
pull 203.0.113.1 >/dev/null

# What is inside leads to its own kind, and not to another.
lead manifests="http://192.168.7.7:$port/ok/manifest"
pull 10.9.9.9 >/dev/null
lead manifests="http://203.0.113.1:$port/ok/manifest"
pull inside.example >/dev/null
lead manifests="http://127.0.7.7:$port/ok/manifest"
pull 127.0.0.1 >/dev/null
registry=10.9.9.9 inside='127\.0\.0\.1|169\.254'
refused 'loopback' "manifests=http://127.0.0.1:$port/ok/manifest"
refused 'metadata' "manifests=http://169.254.169.254:$port/ok/manifest"
registry=127.0.0.1 inside='10\.9\.|169\.254'
refused 'private' "manifests=http://10.9.9.9:$port/ok/manifest"
refuse 1 'metadata' pull 169.254.169.254

# A name that moves inside between two requests is not followed there. (Another port, since what a name
# means is remembered for a minute, with the port.)
registry=evil.example inside="127\.0\.0\.1|evil\.example:$OTHER_PORT"
lead manifests="http://198.51.100.7:$port/ok/manifest"
pull evil.example >/dev/null
names evil.example=127.0.0.1
for what in manifests realm; do
  refused 'evil.example now means 127.0.0.1, a loopback address' "$what=$(there "$what")://evil.example:$OTHER_PORT/secret"
done

# The configuration allows more, and never the metadata services.
ifs stop
wait_for 10 '[ -z "$(daemons)" ]' || fail "still running"
printf '[network]\nallow = ["10.0.0.0/8", "169.254.0.0/16"]\n' >"$T/config.toml"
export IMAGEFS_CONFIG=$T/config.toml
lead manifests="http://10.9.9.9:$port/ok/manifest"
pull 203.0.113.1 >/dev/null
registry=203.0.113.1 inside='127\.0\.0\.1|169\.254\.169|192\.168'
refused 'loopback' "manifests=http://127.0.0.1:$port/ok/manifest"
refused 'private' "manifests=http://192.168.7.7:$port/ok/manifest"
refused 'metadata' "manifests=http://169.254.169.254:$port/ok/manifest"
ifs stop
