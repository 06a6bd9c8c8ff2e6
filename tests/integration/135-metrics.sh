#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Metrics for Prometheus: what is counted agrees with what the registry sent and with what was asked for; by TCP and by a
# unix socket; an address that is taken stops no mount; the document, the alerts and the dashboard name what there is.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_fuse; need curl
start_registry registry
start_proxy proxy
big_image big a=3 b=2; push "$T/images/big" test/big:1
lazy_image lazy estargz

# What the daemon says: `scraped NAME{LABELS}` is the value of one sample, or "none".
SOCKET=$T/metrics.sock
scrape() { curl -fsS --max-time 20 --unix-socket "$SOCKET" http://localhost/metrics; }
scraped() { scrape | $PY -c 'import sys
value = "none"
for line in sys.stdin:
    name, _, rest = line.rstrip("\n").rpartition(" ")
    if name == sys.argv[1]: value = rest
print(value)' "$1"; }
# What the proxy sent: all bytes of bodies of requests whose path matches.
sent() { $PY -c 'import json, re, sys
print(sum(r["sent"] for r in map(json.loads, open(sys.argv[1])) if r["method"] == "GET" and re.search(sys.argv[2], r["path"])))' "$REQUESTS" "$1"; }
asked() { requests count "$1"; }
command_count() { scraped "imagefs_command_duration_seconds_count{command=\"$1\",mode=\"$2\",result=\"$3\"}"; }

# ---- a unix socket
configure '[metrics]' "listen = \"$SOCKET\"" '[fill]' 'background = false'
ifs ls >/dev/null
same "mode of the socket" "600 socket" "$(stat -c '%a %F' "$SOCKET")"
same "version" 1 "$(scraped "imagefs_build_info{version=\"$("$IMAGEFS" --version | grep -oE '[0-9][0-9.]+[^ ]*' | head -1)\"}")"
same "nothing was mounted" none "$(command_count mount fuse ok)"
same "type" "text/plain; version=0.0.4; charset=utf-8" \
  "$(curl -fsS --unix-socket "$SOCKET" -o /dev/null -w '%{content_type}' http://localhost/metrics)"
status_of() { curl -sS --unix-socket "$SOCKET" -o "$T/body" -w '%{http_code}' "$@"; }
same "HEAD" "200 0" "$(status_of -I http://localhost/metrics -o /dev/null) $(curl -sS --unix-socket "$SOCKET" -I http://localhost/metrics -o /dev/null -w '%{size_download}')"
same "another path" 404 "$(status_of http://localhost/)"
same "another method" 405 "$(status_of -X DELETE http://localhost/metrics)"

# ---- a mount is one mount, and the bytes are those that the registry sent; scraped all the while
mkdir "$M/a"
(while [ ! -e "$T/stop" ]; do scrape >"$T/during" || echo "failed" >>"$T/scrapes"; echo "ok" >>"$T/scrapes"; done) & scraper=$!
ifs mount -q --mode fuse "$PROXY/test/big:1" "$M/a" >/dev/null
cat "$M"/a/*/* >/dev/null
touch "$T/stop"; wait $scraper
! grep -q failed "$T/scrapes" || fail "a scrape failed while an image was mounted"
same "mounts made" 1 "$(command_count mount fuse ok)"
same "mounts" 1 "$(scraped 'imagefs_mounts{mode="fuse",state="mounted"}')"
same "sessions" 1 "$(scraped imagefs_fuse_sessions)"
[ "$(scraped 'imagefs_fuse_requests_total{operation="read"}')" -ge 2 ] || fail "no reads: $(scrape | grep fuse)"
for step in resolve layers mount; do
  same "step $step" 1 "$(scraped "imagefs_command_step_duration_seconds_count{command=\"mount\",step=\"$step\"}")"
done
same "bytes of blobs" "$(sent /blobs/)" "$(scraped "imagefs_received_bytes_total{endpoint=\"$PROXY\",kind=\"blob\"}")"
same "bytes of manifests" "$(sent /manifests/)" "$(scraped "imagefs_received_bytes_total{endpoint=\"$PROXY\",kind=\"manifest\"}")"
same "requests for blobs" "$(asked /blobs/)" "$(scraped "imagefs_requests_total{endpoint=\"$PROXY\",kind=\"blob\",result=\"ok\"}")"
same "latencies of blobs" "$(asked /blobs/)" "$(scraped "imagefs_request_latency_seconds_count{endpoint=\"$PROXY\",kind=\"blob\"}")"
same "layers built" 2 "$(scraped imagefs_layers_built_total)"
same "no index for them" 2 "$(scraped 'imagefs_fallbacks_total{cause="index_absent"}')"
[ "$(scraped imagefs_store_used_bytes | cut -d. -f1)" != 0 ] || fail "the store is empty"

# ---- pulls: one that ends well, one that fails, one whose caller goes away
ifs pull -q "$PROXY/test/big:1" >/dev/null
same "pulls" 1 "$(command_count pull "" ok)"
! ifs pull -q "$PROXY/test/none:1" 2>/dev/null >/dev/null || fail "an image that is not there was pulled"
same "failed pulls" 1 "$(command_count pull "" failed)"
[ "$(scraped "imagefs_requests_total{endpoint=\"$PROXY\",kind=\"manifest\",result=\"refused\"}")" -ge 1 ] || fail "no refusal: $(scrape | grep requests_total)"
rules "[{\"path\": \"blobs\", \"hold\": \"$T/go\", \"times\": 20}]"
push "$T/images/lazy" test/held:1
setsid "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$PROXY/test/held:1" >/dev/null 2>&1 & pull=$!
wait_for 20 '[ "$(scraped "imagefs_flights{flight=\"layer\"}")" != 0 ] || [ "$(scraped "imagefs_flights{flight=\"resolve\"}")" != 0 ]' || fail "no flight: $(scrape | grep flights)"
kill -INT $pull; wait $pull || true
wait_for 10 '[ "$(command_count pull "" cancelled)" = 1 ]' || fail "not counted as cancelled: $(scrape | grep command)"
touch "$T/go"; rules '[]'

# ---- readers of a lazy layer wait for what nobody has requested
mkdir "$M/b"
ifs mount -q --mode fuse "$PROXY/test/lazy:1" "$M/b" >/dev/null
find "$M/b" -type f -exec cat {} + >/dev/null
[ "$(scraped 'imagefs_read_wait_seconds_count{cause="fetch"}')" -ge 1 ] || fail "no read waited: $(scrape | grep read_wait)"
[ "$(scraped imagefs_decode_seconds_count)" -ge 1 ] || fail "nothing was decoded"
same "bytes of blobs, with those of the lazy layer" "$(sent /blobs/)" \
  "$(scraped "imagefs_received_bytes_total{endpoint=\"$PROXY\",kind=\"blob\"}")"
same "failed reads" 0 "$(scraped 'imagefs_read_failures_total{cause="other"}')"

# ---- every metric of the document is scraped, and every scraped one is in the document, with these labels
table() { sed -nE 's/^\| `([a-z_]+)` \| ([a-z]+) \| ([a-z, ]*) \|.*/\1 \2 \3/p' "$SOURCE/docs/metrics.md"; }
scrape >"$T/scrape"
diff <(table | awk '{print $1, $2}' | sort) <(sed -nE 's/^# TYPE ([^ ]+) ([a-z]+)$/\1 \2/p' "$T/scrape" | sort) ||
  fail "docs/metrics.md (<) and the daemon (>) have different metrics"
$PY - "$T/scrape" <(table) <<'PY' || fail "labels differ from docs/metrics.md"
import re, sys
labels, types = {}, {}
for line in open(sys.argv[2]):
    name, kind, rest = line.rstrip("\n").split(" ", 2)
    labels[name], types[name] = set(re.findall(r"\w+", rest)), kind
bad = False
for line in open(sys.argv[1]):
    if line.startswith("#"): continue
    name, _, rest = re.match(r"(\w+)(\{(.*)\})? ", line).groups()
    base = re.sub(r"_(bucket|count|sum)$", "", name) if name not in types else name
    got = set(re.findall(r'(\w+)="', rest or "")) - ({"le"} if types[base] == "histogram" else set())
    if got != labels[base]:
        print(name, "has the labels", got, "not", labels[base]); bad = True
sys.exit(bad)
PY
# Alerts and dashboard use nothing else.
known=$(table | awk '{print $1; if ($2 == "histogram") print $1 "_bucket\n" $1 "_count\n" $1 "_sum"}' | sort -u)
for file in packaging/prometheus/alerts.yml packaging/grafana/imagefs.json; do
  used=$(grep -oE '\b(imagefs|process)_[a-z_]+' "$SOURCE/$file" | sort -u)
  [ "$(wc -w <<<"$used")" -ge 10 ] || fail "$file uses no metrics"
  [ -z "$(comm -13 <(echo "$known") <(echo "$used"))" ] || fail "$file uses what there is not: $(comm -13 <(echo "$known") <(echo "$used"))"
done
$PY -c 'import json, sys; assert json.load(open(sys.argv[1]))["panels"]' "$SOURCE/packaging/grafana/imagefs.json"
if command -v promtool >/dev/null; then
  promtool check metrics <"$T/scrape" || fail "promtool finds fault with the metrics"
  promtool check rules "$SOURCE/packaging/prometheus/alerts.yml" >/dev/null || fail "promtool finds fault with the alerts"
  $PY - "$SOURCE/packaging/grafana/imagefs.json" >"$T/rules.yml" <<'PY'
import json, sys
rules = [{"record": f"panel:{p['id']}:{t['refId']}", "expr": t["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")}
         for p in json.load(open(sys.argv[1]))["panels"] for t in p["targets"]]
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
PY
  promtool check rules "$T/rules.yml" >"$T/promtool" || { cat "$T/promtool"; fail "promtool finds fault with the dashboard"; }
else
  echo "NOT TESTED: promtool is not installed (Debian's package prometheus): metrics, alerts and dashboard were not checked by it" >&2
fi

# ---- the socket of a daemon that was killed is replaced; that of one that ends is removed
slay $(daemons)
[ -S "$SOCKET" ] || fail "the socket of a killed daemon is not there"
ifs ls >/dev/null
same "after a kill: mounts" 2 "$(scrape | awk '/^imagefs_mounts\{mode="fuse"/ {n += $2} END {print n}')"
ifs stop --unmount
[ ! -e "$SOCKET" ] || fail "the socket is still there"

# ---- TCP, on a port that is free, and then on one that is taken: everything else works
port=$($PY -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
configure '[metrics]' "listen = \"127.0.0.1:$port\""
ifs ls >/dev/null
curl -fsS "http://127.0.0.1:$port/metrics" >"$T/by_tcp"
grep -q "^imagefs_warnings " "$T/by_tcp" || fail "not served by TCP"
(store second
  ifs mount -q --mode fuse "$PROXY/test/big:1" "$M/a" >/dev/null || fail "a taken port stops a mount"
  ifs status --json | field 'j["warnings"]' | grep -q "metrics are not served (metrics.listen): another process listens on 127.0.0.1:$port; end it, or set another address" ||
    fail "status does not warn: $(ifs status --json | field 'j["warnings"]')"
  grep -q metrics_not_served "$RUN/daemon.log" || fail "the log does not warn"
  ifs stop --unmount)
ifs stop --unmount

# ---- what is no address is refused with the line; "" is none
for listen in ':9180' 'node.example:9180' '127.0.0.1' 'relative/path'; do
  configure '[metrics]' "listen = \"$listen\""
  refuse 7 'config.toml:2: metrics.listen is an address like' ifs ls
done
configure '[metrics]' 'listen = ""'
ifs ls >/dev/null
ifs stop
