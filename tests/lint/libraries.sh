#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One third-party library is included by one .cc file, two at most, and only by those named here.
set -euo pipefail
cd "$(dirname "$0")/../.."
bad=0
allow() {  # allow NAME INCLUDE_REGEX FILE_REGEX
  local hits
  hits=$(grep -lE "^#include <($2)" $(git ls-files 'base/*' 'image/*' 'fetch/*' 'cache/*' 'fs/*' 'snap/*' 'cmd/*' | grep -E '\.(h|cc)$') |
    grep -vE "^($3)$" || true)
  if [ -n "$hits" ]; then
    echo "libraries: $1 is included outside of $3:"
    sed 's/^/  /' <<<"$hits"
    bad=1
  fi
}
allow OpenSSL 'openssl/' 'base/(digest|minisign)\.cc'
allow spdlog 'spdlog/|fmt/' 'base/log\.cc'
allow nlohmann-json 'nlohmann/' 'base/json\.cc'
allow FlatBuffers 'flatbuffers/' 'image/ztoc\.cc'
allow ISA-L '(isa-l/)?igzip_lib\.h|isa-l' 'image/(decompress|span_decode)\.cc'
allow zstd 'zstd\.h' 'image/(decompress|zstd_frame)\.cc'
allow zlib 'zlib\.h' '-'
allow curl 'curl/' 'fetch/(http|url)\.cc'
allow LevelDB 'leveldb/' 'cache/kv(_env)?\.cc'
allow libfuse 'fuse|linux/fuse\.h' 'fs/[a-z_]*\.cc'
allow gRPC 'grpc' 'cmd/[a-z_]*\.(cc|h)|snap/[a-z_]*\.cc'
allow toml++ 'toml\+\+' 'base/toml\.h'
allow yaml-cpp 'yaml-cpp' 'fetch/kubelet_(config|providers)\.cc'
allow RE2 're2/' 'snap/filter\.cc'
allow CLI11 'CLI/' 'cmd/(cli|completion)\.cc'
allow libsystemd 'systemd/' 'cmd/(service_manager|journal)\.cc'
allow prometheus-cpp 'prometheus/' 'cmd/metric_text\.cc'
allow libsmartcols 'libsmartcols\.h' 'cmd/table\.cc'
allow libmicrohttpd 'microhttpd\.h' 'cmd/http_listener\.cc'
count=$({ grep -lE '^#include <fuse' $(git ls-files 'fs/*.cc') /dev/null || true; } | wc -l)
[ "$count" -le 2 ] || { echo "libraries: libfuse is included by $count files of fs/, two at most"; bad=1; }
exit $bad
