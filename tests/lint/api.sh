#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The control API only grows (docs/api.md): what proto/control.v1.lock lists is in proto/control.proto, with the same numbers,
# types and names. What is new need not be listed; a release lists it:
#   tests/lint/api.sh --update
set -euo pipefail
cd "$(dirname "$0")/../.."
py=/usr/bin/python3
command -v protoc >/dev/null && $py -c 'import google.protobuf' 2>/dev/null || { echo "skip: protoc or python3-protobuf is not installed"; exit 77; }
proto=proto/control.proto lock=proto/control.v1.lock
bad=0
$py tests/lint/api.py $proto $lock "$@" || bad=1

# The lint sees what breaks a promise, and does not mind what is new.
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cat >"$T/old.proto" <<'PROTO'
syntax = "proto3";
package p.v1;
service S { rpc A(M) returns (stream M); rpc B(M) returns (M); }
message M { string a = 1; repeated int32 b = 2; oneof o { N c = 3; E d = 4; } message N {} enum E { X = 0; Y = 1; } }
PROTO
$py tests/lint/api.py "$T/old.proto" >"$T/lock"
[ "$(wc -l <"$T/lock")" = 11 ] || { echo "api: the promises are not found: $(cat "$T/lock")"; bad=1; }
breaks() {  # breaks NUMBER SED-COMMAND: so many lines of the lock are not kept
  sed "$2" "$T/old.proto" >"$T/new.proto"
  local found
  found=$({ $py tests/lint/api.py "$T/new.proto" "$T/lock" || true; } | wc -l)
  [ "$found" = "$1" ] || { echo "api: '$2' breaks $1 promises, $found are found"; bad=1; }
}
breaks 0 's/string a = 1;/& string e = 5;/; s/rpc B/rpc C(M) returns (M); &/; s/Y = 1;/& Z = 2;/'
breaks 1 's/string a = 1;//'
breaks 1 's/a = 1/a = 5/'
breaks 1 's/string a/bytes a/'
breaks 1 's/repeated int32/int32/'
breaks 1 's/string a/string z/'
breaks 1 's/stream M/M/'
breaks 1 's/rpc B(M) returns (M);//'
breaks 1 's/Y = 1/Z = 1/'
breaks 1 's/p\.v1/p.v2/'
exit $bad
