# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh and lazy.sh by the tests of mirrors: configuration of endpoints in folders of this test, and
# nginx as what a fleet puts in front of a registry.
HOSTS=$T/hosts                       # a containerd tree; containerd.sh gives it to containerd as well
CONF=$T/containers/registries.conf
CERTS=$T/certs.d

# configure_hosts [LINE...]: the daemon's configuration, with these trees and nothing of the machine's.
configure_hosts() {
  configure '[fill]' 'background = false' '[hosts]' "containerd = [\"$HOSTS\"]" "containers = [\"$CONF\"]" \
    "certificates = [\"$CERTS\"]" "$@"
}

# host_file HOST: standard input becomes HOST's hosts.toml; without a line the file goes.
host_file() {
  mkdir -p "$HOSTS/$1"
  cat >"$HOSTS/$1/hosts.toml.new"
  if [ -s "$HOSTS/$1/hosts.toml.new" ]; then mv "$HOSTS/$1/hosts.toml.new" "$HOSTS/$1/hosts.toml"
  else rm -rf "${HOSTS:?}/$1"; fi
}
registries_conf() { mkdir -p "${CONF%/*}"; cat >"$CONF"; }

free_port() { $PY -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start_nginx NAME SERVER-LINES [HTTP-LINES]: one server on a free port; sets NGINX to host:port. PORT in the lines is
# that port.
start_nginx() {
  local dir=$T/$1 port
  command -v nginx >/dev/null || PATH=$PATH:/usr/sbin
  need nginx
  port=$(free_port)
  mkdir -p "$dir"
  cat >"$dir/nginx.conf" <<CONF
daemon off;
pid $dir/pid;
error_log $dir/error.log;
worker_processes 2;
events {}
http {
  access_log $dir/access.log;
  client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fastcgi;
  uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
  ${3:-}
  server {
    ${2//PORT/$port}
  }
}
CONF
  nginx -c "$dir/nginx.conf" >"$dir/out" 2>&1 &
  TEST_PIDS+=($!)
  NGINX=127.0.0.1:$port
  wait_for 20 "(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null" || fail "nginx does not start: $(cat "$dir/out" "$dir/error.log")"
}
