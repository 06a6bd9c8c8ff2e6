#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The harness of the runtime tests itself: pull, pod, container, exec, restart of containerd and removal through the
# container runtime interface, with either version of containerd, over overlayfs.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
need_containerd 1; need_containerd 2
start_registry registry
pause_image
tool_image tools
ref=$REGISTRY/test/tools:1
for version in 1 2; do
  start_containerd "containerd$version" $version
  same "version" true "$(cri version | field 'j["runtime_version"].lstrip("v").startswith("1.6." if '$version' == 1 else "2.")')"
  cri pull --parallel 3 "$ref" >"$T/pulled"
  same "pulls" '[3, 0, 3]' "$(field '[len(j["pulls"]), j["failed"], sum(0 < p["seconds"] <= j["seconds"] for p in j["pulls"])]' <"$T/pulled")"
  ! cri pull "$REGISTRY/test/none:1" >"$T/pulled" || fail "an image that is not there is pulled"
  same "code" NOT_FOUND "$(field 'j["pulls"][0]["error"]["code"]' <"$T/pulled")"
  same "status" "$(cri images | field '[i["id"] for i in j if any("tools" in t for t in i["repo_tags"])][0]')" \
    "$(cri image-status "$ref" | field 'j["image"]["id"]')"
  same "no status" null "$(cri image-status "$REGISTRY/test/none:1")"
  same "image-fs-info" true "$(cri image-fs-info | field 'j["image_filesystems"][0]["fs_id"]["mountpoint"].startswith("'"$CONTAINERD"'/")')"

  pod=$(pod "harness$version")
  id=$(container "$pod" "harness$version" main "$ref" sh -c 'echo started; cat /hello >&2; exec sleep 1000')
  wait_for 20 '[ "$(cri logs "$id" | field "bool(j[\"stderr\"])")" = true ]' || fail "logs: $(cri logs "$id")"
  same "logs" '["started\n", "hello from the image\n"]' "$(cri logs "$id" | field '[j["stdout"], j["stderr"]]')"
  same "exec" '{"stdout": "here\n", "stderr": "", "exit_code": 7}' "$(cri exec-sync "$id" sh -c 'echo here; echo x >/tmp/x; exit 7')"
  kill_containerd
  resume_containerd
  same "after a restart" x "$(cri exec-sync "$id" cat /tmp/x | field 'j["stdout"].strip()')"
  same "state" CONTAINER_RUNNING "$(cri status-of "$id" | field 'j["state"]')"
  same "stats" "$id" "$(cri stats "$id" | field 'j["attributes"]["id"]')"
  cri stop "$id" >/dev/null
  same "stopped" 137 "$(cri wait "$id" | field 'j["exit_code"]')"
  cri rm "$id" >/dev/null
  remove_pod "$pod"
  same "left" '[] []' "$(cri ps) $(cri pods)"
  cri rmi "$ref" >/dev/null
  same "removed" null "$(cri image-status "$ref")"
  stop_containerd
done
