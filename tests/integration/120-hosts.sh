#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Which endpoints are asked, in which order and with what: every form of containerd's hosts.toml, of containers'
# registries.conf and of certs.d, each with the registry's own name leading nowhere.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
start_registry registry
image plain
push "$T/images/plain" test/app:1 >/dev/null
push "$T/images/plain" team/mirror/app:1 >/dev/null
PLAIN=$REGISTRY
closed=127.0.0.1:$(free_port)
configure_hosts
mkdir -p "$HOSTS" "$CERTS"
nowhere="server = \"http://$closed\""

# pulls WHAT [REFERENCE [HOST]]: the image is had; and, with HOST, HOST's log shows the request.
pulls() {
  ifs inspect --json "${2:-registry.test/test/app:1}" >"$T/out" 2>"$T/err" || fail "$1: $(cat "$T/err")"
  wait_for_change
}
# fails WHAT REGEX [REFERENCE]: after a while there may also be a line that says what it waits for.
fails() {
  ! ifs inspect "${3:-registry.test/test/app:1}" >"$T/out" 2>"$T/err" || fail "$1: it is had"
  tail -1 "$T/err" | grep -qiE "$2" || fail "$1: $(cat "$T/err")"
  wait_for_change
}
# What was resolved a moment ago is not asked for again.
wait_for_change() { ifs stop; store "form-$((++form))"; }
form=0
wait_for_change

fails "no configuration" 'registry.test'

host_file registry.test <<<"$nowhere
[host.\"http://$PLAIN\"]"
pulls "a mirror before a dead registry"
grep -q 'ns=registry.test' "$REGISTRY_LOG" || fail "no ns: $(tail -3 "$REGISTRY_LOG")"

host_file registry.test <<<"server = \"http://$PLAIN\""
pulls "another server"

host_file registry.test <<<"$nowhere
[host.\"http://$PLAIN\"]
  capabilities = [\"pull\"]"
fails "no capability to resolve" "$closed"
digest=$(manifest_of plain)
pulls "by digest from who may not resolve" "registry.test/test/app@$digest"

host_file registry.test <<<"$nowhere
[host.\"http://$closed\"]
[host.\"http://$PLAIN\"]"
pulls "the second mirror, where the first is dead"

# The forms of the directory's name, the most particular first.
host_file registry.test </dev/null
host_file _default <<<"[host.\"http://$PLAIN\"]"
pulls "_default"
for name in registry.test:5000 registry.test_5000_; do
  host_file _default </dev/null
  host_file "$name" <<<"$nowhere
[host.\"http://$PLAIN\"]"
  pulls "$name" registry.test:5000/test/app:1
  host_file "$name" </dev/null
done

# Path prefixes: what a server has below /mirror.
start_nginx prefix "listen 127.0.0.1:PORT;
  location /mirror/v2/ { proxy_pass http://$PLAIN/v2/; }
  location /odd/ { if (\$http_x_team != red) { return 403; } proxy_pass http://$PLAIN/v2/; }
  location / { return 404; }"
host_file registry.test <<<"$nowhere
[host.\"http://$NGINX/mirror\"]"
pulls "a prefix, to which /v2 is added"
host_file registry.test <<<"$nowhere
[host.\"http://$NGINX/odd\"]
  override_path = true
[host.\"http://$NGINX/odd\".header]
  x-team = [\"red\"]"
pulls "override_path and a header"
host_file registry.test <<<"$nowhere
[host.\"http://$NGINX/odd\"]
  override_path = true"
fails "without that header" 'does not give it'

host_file registry.test <<<"$nowhere
[host.\"http://$PLAIN\"
"
fails "a malformed file" "$HOSTS/registry.test/hosts.toml:"
host_file registry.test </dev/null

# TLS with an own CA, and one that asks for a certificate.
start_registry secure tls
push_tls() { SSL_CERT_FILE=$T/$1/ca.pem $PY "$LIB/oci.py" push "$T/images/plain" "$REGISTRY/test/app:1" --tls "$T/$1/ca.pem" >/dev/null; }
TLS=$REGISTRY
cp -r "$T/registry/data/." "$T/secure/data/"
host_file registry.test <<<"$nowhere
[host.\"https://$TLS\"]"
fails "an unknown CA" 'not trusted'
host_file registry.test <<<"$nowhere
[host.\"https://$TLS\"]
  ca = \"../ca.pem\""
cp "$T/secure/ca.pem" "$HOSTS/ca.pem"
pulls "ca"
host_file registry.test <<<"$nowhere
[host.\"https://$TLS\"]
  skip_verify = true"
pulls "skip_verify"
host_file registry.test <<<"$nowhere
[host.\"https://$TLS\"]"
mkdir -p "$CERTS/$TLS"
cp "$T/secure/ca.pem" "$CERTS/$TLS/own.crt"
pulls "certs.d"
pulls "certs.d for a registry of its own" "$TLS/test/app:1"
rm -r "${CERTS:?}/$TLS"

openssl req -newkey rsa:2048 -nodes -subj /CN=node -keyout "$T/client.key" -out "$T/client.csr" 2>/dev/null
openssl x509 -req -in "$T/client.csr" -CA "$T/secure/ca.pem" -CAkey "$T/secure/ca-key.pem" -CAcreateserial -days 2 \
  -out "$T/client.cert" 2>/dev/null
start_nginx mutual "listen 127.0.0.1:PORT ssl;
  ssl_certificate $T/secure/cert.pem; ssl_certificate_key $T/secure/key.pem;
  ssl_client_certificate $T/secure/ca.pem; ssl_verify_client on;
  location / { proxy_pass http://$PLAIN; proxy_set_header Host \$http_host; }"
host_file registry.test <<<"$nowhere
[host.\"https://$NGINX\"]
  ca = [\"$T/secure/ca.pem\"]"
fails "no client certificate" 'HTTP status 400|certificate'
host_file registry.test <<<"$nowhere
[host.\"https://$NGINX\"]
  ca = [\"$T/secure/ca.pem\"]
  client = [[\"$T/client.cert\", \"$T/client.key\"]]"
pulls "a client certificate"
host_file registry.test <<<"$nowhere
[host.\"https://$NGINX\"]"
mkdir -p "$CERTS/$NGINX"
cp "$T/secure/ca.pem" "$CERTS/$NGINX/ca.crt"
cp "$T/client.cert" "$T/client.key" "$CERTS/$NGINX/"
pulls "a client certificate of certs.d"
host_file registry.test </dev/null

# containers' registries.conf.
registries_conf <<<"[[registry]]
prefix = \"registry.test/test\"
location = \"$closed/test\"
[[registry.mirror]]
location = \"$PLAIN/team/mirror\"
insecure = true"
pulls "a mirror with another prefix"
grep -q '/v2/team/mirror/app/manifests' "$T/registry.log" || fail "the prefix was not rewritten"
registries_conf <<<"[[registry]]
prefix = \"*.corp.test\"
location = \"$PLAIN\"
insecure = true"
pulls "a wildcard" a.corp.test/test/app:1
registries_conf <<<"[[registry]]
location = \"registry.test\"
blocked = true"
fails "blocked" 'blocked'
registries_conf <<<"[[registry]]
prefix = \"registry.test\"
location = \"$closed\"
[[registry.mirror]]
location = \"$PLAIN\"
insecure = true
pull-from-mirror = \"digest-only\""
fails "a mirror for digests only" "$closed"
pulls "its digest" "registry.test/test/app@$digest"
registries_conf <<<"[aliases]
tool = \"$PLAIN/test/app\""
pulls "a short name" tool:1
# containerd's tree decides where both know the registry.
registries_conf <<<"[[registry]]
location = \"registry.test\"
blocked = true"
host_file registry.test <<<"$nowhere
[host.\"http://$PLAIN\"]"
pulls "both trees"

# A change is seen by the daemon that runs.
host_file registry.test <<<"$nowhere"
registries_conf </dev/null
! ifs inspect registry.test/test/app:1 >"$T/out" 2>&1 || fail "a dead registry answers"
host_file registry.test <<<"$nowhere
[host.\"http://$PLAIN\"]"
wait_for 10 "ifs inspect registry.test/test/app:1 >/dev/null 2>&1" || fail "the change is not seen"
ifs status >"$T/status"
grep -q "$HOSTS/registry.test/hosts.toml" "$T/status" || fail "status does not name the file: $(cat "$T/status")"
