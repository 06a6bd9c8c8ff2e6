#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Registries that do what real ones do and the specification does not say (odd_registry.py list): each is pulled
# from, and shown lazily, with the bytes that an undisturbed one gives, and nobody but the registry sees a credential.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
lazy image "$T/images/odd" estargz 1 24
lazy image "$T/images/truth" gzip 1 24   # the same tree
mkdir -p "$T/odd" "$M/lazy" "$T/truth"
start_odd_registry "$T/images/odd"
HOST=$ODD_REGISTRY
printf '{"auths": {"%s": {"auth": "%s"}}}' "$HOST" "$(printf 'alice:p4ssW0rd-of-alice' | base64 -w0)" >"$DOCKER_CONFIG/config.json"
(store truth && ifs mount -q --eager --mode fuse "oci:$T/images/truth" "$T/truth" >/dev/null)

mode=$(modes | tail -1)
number=0
for name in ${ODD:-$($PY "$LIB/odd_registry.py" list)}; do
  groups=any
  case $name in ping* | token*) groups='any user' ;; esac
  for group in $groups; do
    number=$((number + 1))
    : >"$T/odd/log"
    ref=$HOST/$group/$name:1
    store "$number"
    ifs pull -q "$ref" >"$T/out" 2>"$T/err" || fail "$ref: pull: $(cat "$T/err")"
    [ ! -s "$T/err" ] || fail "$ref: pull says $(cat "$T/err")"
    ifs inspect "$ref" >/dev/null || fail "$ref: inspect"
    ifs rm "$ref" >/dev/null
    ifs stop
    store "$number.lazy"
    ifs mount -q --mode "$mode" "$ref" "$M/lazy" >"$T/out" 2>"$T/err" || fail "$ref: mount: $(cat "$T/err")"
    same "$ref: layers shown lazily" 2 "$(counter layers_lazy)"
    lazy readers "$T/truth" "$M/lazy" --readers "${READERS:-2}" --seed "$number" || fail "$ref: wrong bytes"
    same "$ref: reads that failed" 0 "$(counter fill_reads_failed)"
    ifs umount "$M/lazy"
    ifs stop
    # Alice is known to the registry and its token service, and to nobody else.
    $PY - "$T/odd/log" "$group" <<'PY' || fail "$ref: credentials went astray, or where none were asked for"
import json, sys
requests = [json.loads(line) for line in open(sys.argv[1])]
assert not [r for r in requests if r["server"] == "other" and r["authorization"] not in (None, "Bearer any")], "other"
tokens = [r for r in requests if r["path"].startswith("/token") and r["server"] == "registry"]
assert all((r["authorization"] or "").startswith("Basic") for r in tokens), "token service"
assert sum(r["path"] == "/v2/" for r in requests) <= 2, "the root was asked again and again"
PY
  done
done

# What others make of it, in the versions that are here: what is odd here is what others meet as well.
# others WHAT FAILS COMMAND...: the command is run with a reference for each behaviour that does not go by the
# number of the request.
others() {
  local what=$1 fails=$2 failed='' name group
  shift 2
  for name in $($PY "$LIB/odd_registry.py" list); do
    group=any
    case $name in ping*) group=user ;; nodes | names | busy) continue ;; esac
    timeout 60 "$@" "$HOST/$group/$name:1" >>"$T/$what.log" 2>&1 || failed="$failed $name"
  done
  same "what $what cannot fetch" "$fails" "$(xargs <<<"$failed")"
}
[ -z "${ODD:-}" ] || exit 0
copy() { rm -rf "$T/copy" && skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$1" "oci:$T/copy:x"; }
export -f copy
export T
case "$(skopeo --version 2>/dev/null)" in
  *' 1.9.'*) others skopeo 'hops vanity vanitylink jsontype notype' bash -c 'copy "$1"' copy ;;
  *) echo "NOT COMPARED: skopeo 1.9 is not here" >&2 ;;
esac
case "$(ctr --version 2>/dev/null)" in
  *' 1.6.'*)
    mkdir -p "$T/containerd"
    printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "%s"\n[ttrpc]\n  address = "%s"\n[plugins."io.containerd.internal.v1.opt"]\n  path = "%s"\n' \
      "$T/containerd/root" "$T/containerd/state" "$T/containerd/sock" "$T/containerd/ttrpc" "$T/containerd/opt" >"$T/containerd/config.toml"
    containerd -c "$T/containerd/config.toml" >"$T/containerd.log" 2>&1 &
    TEST_PIDS+=($!)
    wait_for 20 'ctr -a "$T/containerd/sock" version >/dev/null 2>&1' || fail "containerd does not start"
    fetch() {  # in a namespace of its own, where nothing is half here
      local one status=0 own=(ctr -a "$T/containerd/sock" -n "${1##*/}")
      own[4]=${own[4]%:1}
      "${own[@]}" content fetch --plain-http -u alice:p4ssW0rd-of-alice "$1" || status=1
      for one in $("${own[@]}" images ls -q); do "${own[@]}" images rm --sync "$one"; done
      for one in $("${own[@]}" content ls -q); do "${own[@]}" content rm "$one"; done
      return $status
    }
    export -f fetch
    others ctr 'ping401 ping403 ping404 vanitylink foreign foreignhop foreignsize oldaccept notype' bash -c 'fetch "$1"' fetch ;;
  *) echo "NOT COMPARED: containerd 1.6 is not here" >&2 ;;
esac
echo "behaviours: $number"
