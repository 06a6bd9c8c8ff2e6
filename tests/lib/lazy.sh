# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh by the tests of layers that are shown before their bytes are here.
LAZY=$LIB/lazy.py

# What happens by itself after a quiet moment is turned off, so that counts are counts; `configure` with
# nothing gives that back.
configure() { printf '%s\n' "$@" >"$T/config.toml"; }
configure '[fill]' 'background = false'
export IMAGEFS_CONFIG=$T/config.toml

# store NAME: from here on `ifs` has a store of its own and a daemon of its own.
store() { ROOT=$T/store-$1/root RUN=$T/store-$1/run; mkdir -p "$T/store-$1"; }

lazy() { $PY "$LAZY" "$@"; }

# lazy_image NAME FORMAT [SEED [MIB]]: makes $T/images/NAME and pushes it as test/NAME:1.
lazy_image() {
  lazy image "$T/images/$1" "${@:2}"
  push "$T/images/$1" "test/$1:1"
}
manifest_of() { field 'j["manifests"][0]["digest"]' <"$T/images/$1/index.json"; }
layer_of() { lazy_layer=$($PY -c 'import sys; sys.path.insert(0, sys.argv[1]); from lazy import *
print(list(layers_of(sys.argv[2]))[int(sys.argv[3])])' "$LIB" "$T/images/$1" "$2"); echo "${lazy_layer#sha256:}"; }

# publish NAME [OPTION...]: the index of test/NAME:1, made in a store that is thrown away.
publish() {
  (store publisher && rm -rf "$ROOT" && ifs index -q --push --json "${@:2}" "$REGISTRY/test/$1:1" >"$T/published.json" &&
    ifs stop && wait_for 10 '[ -z "$(daemons_of "$T/store-publisher/")" ]')
}
# user_home DIR: makes it, with a directory m, the home of the user nobody; sets `home` and `uid`.
user_home() {
  home=$1 uid=$(id -u nobody)
  mkdir -p "$home/m"
  chmod 711 "$T"
  chown -R "$uid:$uid" "$home"
}
# need_user: a user who mounts by fusermount3, with user_home in $T. May start the script again (open_fuse).
need_user() {
  need_fuse; need fusermount3; need setpriv
  [ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid"
  open_fuse
  user_home "$T/user"
}
# as_user COMMAND...: with the rights of that user, and nothing of this environment.
as_user() { env -i PATH="$PATH" HOME="$home" setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all "$@"; }
daemons_of() {
  local pid
  for pid in $(daemons); do tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$1" && echo "$pid"; done
  return 0
}

# truth NAME DIR: the image as a pass over the whole shows it, in a store of its own.
truth() {
  mkdir -p "$2"
  (store truth && ifs mount -q --eager --mode fuse "$REGISTRY/test/$1:1" "$2" >/dev/null)
}

counter() { ifs status --json | field "j['counters']['$1']"; }
state() { ifs status --json "$1"; }
states() { state "$1" | field '" ".join(sorted({l["state"] for l in j["layers"]}))'; }
# sum DIR FIELD: of all layers of the mount.
sum() { state "$1" | field "sum(l['$2'] for l in j['layers'])"; }
# sent NAME: bytes of the image's layers that came through the shaper.
sent() { lazy bytes "$SHAPER/requests" "$T/images/$1"; }
log_says() { grep -qE "$1" "$RUN/daemon.log"; }
forget_requests() { : >"$SHAPER/requests"; shape reset >/dev/null; }
# reads_fail FILE: with EIO.
reads_fail() {
  local said
  ! said=$(cat "$1" 2>&1 >/dev/null) || fail "$1 can be read"
  grep -q 'Input/output error' <<<"$said" || fail "$1: $said"
}
# part_of NAME FILE: "BEGIN END" of a file of the lower layer in that layer's gzip blob.
part_of() { lazy file "$T/images/$1" 0 "$2"; }

# The registry goes away, and comes back where it was with what it had.
registry_dies() { slay "${TEST_PIDS[0]}"; }
registry_returns() {
  sed -i "s/addr: 127.0.0.1:0/addr: $REGISTRY/" "$T/registry/config.yml"
  docker-registry serve "$T/registry/config.yml" >>"$T/registry.log" 2>&1 &
  TEST_PIDS[0]=$!
  wait_for 20 "$PY -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])))' ${REGISTRY/:/ } 2>/dev/null" ||
    fail "the registry does not come back"
}
