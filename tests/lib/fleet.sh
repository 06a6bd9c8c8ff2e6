# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh, lazy.sh, hosts.sh and hostile.sh, in a network of its own (own_network): nodes, each with a
# store, a daemon and a network of its own, at a bridge. The registry and its caching mirror are at the bridge, too.
FLEET=10.77.0.1
HOSTS=$T/hosts.d  # own_network has $T/hosts

# start_fleet NODES [LINE...]: the bridge, the nodes' networks, nginx in front of the shaped registry, the nodes'
# configuration with these lines. FLEET_REF is the image's repository as the nodes call it.
start_fleet() {
  local nodes=$1 k pid
  ip link add fleet type bridge
  ip addr add "$FLEET/16" dev fleet
  ip link set fleet up
  NODE_NETS=()
  for k in $(seq "$nodes"); do
    # Its command line has $T, so that the test's end finds it.
    unshare -n sh -c 'echo ready >"$0"; exec sleep infinity' "$T/net$k" &
    pid=$!
    TEST_PIDS+=($pid)
    NODE_NETS+=($pid)
    wait_for 20 "[ -s '$T/net$k' ]" || fail "no network for node $k"
    ip link add "fleet$k" type veth peer name eth0 netns $pid
    ip link set "fleet$k" master fleet up
    nsenter -t $pid -n sh -c "ip link set lo up; ip addr add 10.77.$((1 + k / 200)).$((1 + k % 200))/16 dev eth0; ip link set eth0 up"
  done
  # Manifests by digest and blobs do not change; a tag is asked for anew, at most once a second.
  start_nginx slices "listen $FLEET:PORT; listen 127.0.0.1:PORT;
    proxy_http_version 1.1; proxy_set_header Connection ''; proxy_cache slices; proxy_cache_lock on; proxy_cache_lock_timeout 60s;
    location ~ /blobs/ {
      slice 256k; proxy_cache_key \$uri\$slice_range; proxy_cache_valid 200 206 1h;
      proxy_set_header Range \$slice_range; proxy_pass http://$SHAPED;
    }
    location ~ /manifests/sha256: { proxy_cache_key \$uri\$http_accept; proxy_cache_valid 200 1h; proxy_pass http://$SHAPED; }
    location /v2/ { proxy_cache_key \$uri\$is_args\$args\$http_accept; proxy_cache_valid 200 1s; proxy_pass http://$SHAPED; }" \
    "proxy_cache_path $T/slices/cache keys_zone=slices:1m;"
  # Pushes go to the registry itself.
  start_nginx door "listen $FLEET:PORT; listen 127.0.0.1:PORT; client_max_body_size 0;
    location / { proxy_http_version 1.1; proxy_set_header Host \$http_host; proxy_request_buffering off; proxy_pass http://$SHAPED; }"
  DOOR=$FLEET:${NGINX#*:}
  MIRROR=$FLEET:$(sed -n 's/.*listen 10.77.0.1:\([0-9]*\);.*/\1/p' "$T/slices/nginx.conf")
  host_file registry.test <<<"server = \"http://$DOOR\"
[host.\"http://$MIRROR\"]
  capabilities = [\"pull\", \"resolve\"]"
  configure_hosts '[index]' 'trust = "any"' 'publish = true' "${@:2}"
}

# node K COMMAND...: with that node's store, daemon and network.
node() {
  local k=$1
  shift
  (store "node$k"; mkdir -p "$T/node$k"
   timeout -k 5 200 nsenter -t "${NODE_NETS[$((k - 1))]}" -n "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@")
}
node_mounts() { node "$1" mount -q "$2" "$T/node$1" >/dev/null; }
node_says() { grep -qE "$2" "$T/store-node$1/run/daemon.log"; }
node_state() { node "$1" status --json "$T/node$1" | field '" ".join(sorted({l["state"] for l in j["layers"]}))'; }
node_stops() { node "$1" umount "$T/node$1" >/dev/null; node "$1" stop; }

# registry_sent: bytes of all answers of the registry, whoever asked.
registry_sent() { shape totals | field 'j["sent"]'; }
# index_pushes: how often a node has set the tag of an index.
index_pushes() { $PY -c 'import json, sys
print(sum(r["method"] == "PUT" and r["path"].split("?")[0].endswith(".imagefs") for r in map(json.loads, open(sys.argv[1]))))' "$SHAPER/requests"; }

# foreign_entry REPOSITORY DIGEST NAME: what cosign does: an artifact, and the list under the tag with an entry more.
foreign_entry() {
  $PY - "$REGISTRY" "$@" <<'PY'
import hashlib, http.client, json, sys
host, repository, subject, name = sys.argv[1:]
MANIFEST, INDEX = ("application/vnd.oci.image." + kind + ".v1+json" for kind in ("manifest", "index"))
def ask(method, path, body=None, kind=None):
    line = http.client.HTTPConnection(host)
    line.request(method, f"/v2/{repository}/{path}", body, {"Accept": INDEX, **({"Content-Type": kind} if kind else {})})
    answer = line.getresponse()
    return answer.status, answer.read(), answer.headers
empty = b"{}"
digest = "sha256:" + hashlib.sha256(empty).hexdigest()
status, _, headers = ask("POST", "blobs/uploads/")
where = headers["Location"].split(f"/v2/{repository}/")[1]
status, *_ = ask("PUT", f"{where}&digest={digest}", empty, "application/octet-stream")
assert status == 201, status
config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2}
kind = "application/vnd.dev.cosign.artifact.sig.v1+json"
manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config,
                       "layers": [config], "annotations": {"name": name}}).encode()
own = "sha256:" + hashlib.sha256(manifest).hexdigest()
status, *_ = ask("PUT", "manifests/" + own, manifest, MANIFEST)
assert status == 201, status
tag = "manifests/" + subject.replace(":", "-")
status, body, _ = ask("GET", tag)
listed = json.loads(body) if status == 200 else {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
listed["manifests"].append({"mediaType": MANIFEST, "digest": own, "size": len(manifest), "artifactType": kind})
status, *_ = ask("PUT", tag, json.dumps(listed).encode(), INDEX)
assert status == 201, status
print(own)
PY
}
# listed REPOSITORY DIGEST EXPRESSION: over the entries `m` of the list under the tag.
listed() { lazy manifest "$REGISTRY/$1" "${2/:/-}" 2>/dev/null | field "[$3 for m in j['manifests']]"; }
