#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A proxy that does not answer, refuses or wants a password is named, with the variable that it is from, and the
# registry is not blamed; its own password is shown to nobody.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
cat >"$T/proxy.py" <<'PY'
"""proxy.py DIR: a port for each answer to what a proxy is asked; "silent" gives none, "cut" ends the connection."""
import http.server, os, socketserver, sys, threading, time
ANSWERS = ["407", "403", "502", "cut"]
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        if self.server.answer == "cut":
            self.close_connection = True
            return
        self.send_response(int(self.server.answer))
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_CONNECT = do_GET
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
servers = [Server(("127.0.0.1", 0), Handler) for _ in ANSWERS]
for server, answer in zip(servers, ANSWERS):
    server.answer = answer
    threading.Thread(target=server.serve_forever).start()
with open(sys.argv[1] + "/port.new", "w") as file:
    file.write("\n".join(f"{a} {s.server_address[1]}" for a, s in zip(ANSWERS, servers)) + "\n")
os.rename(sys.argv[1] + "/port.new", sys.argv[1] + "/port")
PY
mkdir "$T/proxy"
$PY "$T/proxy.py" "$T/proxy" &
TEST_PIDS+=($!)
wait_for 20 "[ -e '$T/proxy/port' ]" || fail "the proxies do not start"
declare -A port
while read -r answer number; do port[$answer]=$number; done <"$T/proxy/port"

number=0
# blamed STATUS REGEX VARIABLE=PROXY [OPTION...]: the message names that proxy, and does not send the user to the registry.
blamed() {
  local status=$1 regex=$2 setting=$3
  shift 3
  number=$((number + 1)) ROOT=$T/store$number/root RUN=$T/store$number/run
  mkdir -p "$T/store$number"
  refuse $status "$regex" env "$setting" timeout 100 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$@" registry.example/a/b:1
  ! grep -qE 's3cret|the registry runs there' "$T/err" || fail "$(cat "$T/err")"
  ifs stop
}
closed=$($PY -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
for variable in HTTPS_PROXY https_proxy ALL_PROXY; do
  blamed 8 "cannot connect to the proxy 127.0.0.1:$closed \(from $variable\): connection refused; check $variable" \
    "$variable=http://me:s3cret@127.0.0.1:$closed"
done
blamed 8 "cannot find the proxy no-such-host.invalid:3128 \(from HTTPS_PROXY\)" HTTPS_PROXY=no-such-host.invalid:3128
blamed 5 "the proxy 127.0.0.1:${port[407]} \(from HTTPS_PROXY\) requires a user name and a password" "HTTPS_PROXY=127.0.0.1:${port[407]}"
blamed 5 "the proxy 127.0.0.1:${port[403]} .*does not connect to registry.example \(HTTP status 403\)" "HTTPS_PROXY=127.0.0.1:${port[403]}"
blamed 8 "the proxy 127.0.0.1:${port[502]} .*does not connect to registry.example \(HTTP status 502\)" "HTTPS_PROXY=127.0.0.1:${port[502]}"
blamed 8 "the connection to the proxy 127.0.0.1:${port[cut]} " "HTTPS_PROXY=127.0.0.1:${port[cut]}"
# In the clear there is no tunnel: what the proxy says looks like the registry's word, so both are named.
blamed 5 "the proxy 127.0.0.1:${port[407]} \(from http_proxy\) requires a user name" "http_proxy=127.0.0.1:${port[407]}" --plain-http
blamed 8 "HTTP status 502 through the proxy 127.0.0.1:${port[502]} " "http_proxy=127.0.0.1:${port[502]}" --plain-http
blamed 8 "cannot connect to the proxy 127.0.0.1:$closed \(from http_proxy\)" "http_proxy=127.0.0.1:$closed" --plain-http
