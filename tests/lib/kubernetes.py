#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes is given: the chart and the manifests of packaging/kubernetes.

  kubernetes.py render [--set KEY=VALUE...]      the chart, as YAML (Go's templates; tests/lib/render_chart.go)
  kubernetes.py check FILE...                    objects are what the API takes, and the volumes are right; prints what is not
  kubernetes.py same FILE FILE                   the same objects; prints the differences
  kubernetes.py mounts FILE NAME CONTAINER MAPS  the volumes of a DaemonSet's container, as values of `ctr run --mount`; its
                                                 config maps are written below the directory MAPS
  kubernetes.py env FILE NAME CONTAINER          its environment, a NAME=VALUE a line
  kubernetes.py command FILE NAME CONTAINER      its command and arguments, one a line

The schema below is the part of the API that these objects use. A field that it does not have is an error, because the
API ignores misspelt ones.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

import yaml

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHART = SOURCE + "/packaging/kubernetes/chart"
RUN, STORE = "/run/imagefs", "/var/lib/imagefs"


# ---- schema: a type is a Python type, a regular expression, a list [type], or a dict of fields ("!": required)
class Map:
    def __init__(self, of):
        self.of = of


NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABELS = Map(re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"))
PATH = re.compile(r"/[^:]*")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi)?")
IMAGE = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9._-]+")
HOST_PATH_TYPES = re.compile("DirectoryOrCreate|Directory|FileOrCreate|File|Socket")
PROBE = {"exec!": {"command!": [str]}, "periodSeconds": int, "timeoutSeconds": int, "failureThreshold": int,
         "initialDelaySeconds": int}
RESOURCES = {"requests": Map(QUANTITY), "limits": Map(QUANTITY)}
CONTAINER = {
    "name!": NAME, "image!": IMAGE, "imagePullPolicy": re.compile("Always|IfNotPresent|Never"),
    "command": [str], "args": [str], "env": [{"name!": str, "value!": str}],
    "securityContext!": {"privileged": bool, "runAsUser": int, "allowPrivilegeEscalation": bool,
                         "readOnlyRootFilesystem": bool, "capabilities": {"drop": [str], "add": [str]}},
    "readinessProbe": PROBE, "livenessProbe": PROBE, "resources": RESOURCES,
    "volumeMounts": [{"name!": NAME, "mountPath!": PATH, "readOnly": bool,
                      "mountPropagation": re.compile("None|HostToContainer|Bidirectional")}],
}
VOLUME = {
    "name!": NAME,
    "hostPath": {"path!": PATH, "type!": HOST_PATH_TYPES},
    "configMap": {"name!": NAME},
    "secret": {"secretName!": NAME, "items": [{"key!": str, "path!": str}]},
}
POD = {
    "hostNetwork": bool, "hostPID": bool, "dnsPolicy": re.compile("Default|ClusterFirst|ClusterFirstWithHostNet|None"),
    "priorityClassName": str, "automountServiceAccountToken": bool, "imagePullSecrets": [{"name!": NAME}],
    "nodeSelector": LABELS, "terminationGracePeriodSeconds": int,
    "tolerations": [{"operator": re.compile("Exists|Equal"), "key": str, "value": str, "effect": str}],
    "initContainers": [CONTAINER], "containers!": [CONTAINER], "volumes": [VOLUME],
}
METADATA = {"name!": NAME, "namespace": NAME, "labels": LABELS, "annotations": Map(str)}
KINDS = {
    ("apps/v1", "DaemonSet"): {
        "apiVersion!": str, "kind!": str, "metadata!": METADATA,
        "spec!": {
            "selector!": {"matchLabels!": LABELS},
            "updateStrategy": {"type!": re.compile("RollingUpdate|OnDelete"), "rollingUpdate": {"maxUnavailable": int}},
            "template!": {"metadata!": {"labels!": LABELS, "annotations": Map(str)}, "spec!": POD},
        }},
    ("v1", "ConfigMap"): {"apiVersion!": str, "kind!": str, "metadata!": METADATA, "data!": Map(str)},
    ("node.k8s.io/v1", "RuntimeClass"): {
        "apiVersion!": str, "kind!": str, "metadata!": METADATA, "handler!": NAME,
        "scheduling": {"nodeSelector": LABELS}},
}
NAMESPACED = {"DaemonSet", "ConfigMap"}


def errors_of(value, schema, where):
    if isinstance(schema, Map):
        if not isinstance(value, dict):
            yield f"{where}: not a map"
            return
        for key, member in value.items():
            yield from errors_of(member, schema.of, f"{where}.{key}")
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{where}: not a list"
            return
        for i, member in enumerate(value):
            yield from errors_of(member, schema[0], f"{where}[{i}]")
    elif isinstance(schema, dict):
        if not isinstance(value, dict):
            yield f"{where}: not an object"
            return
        fields = {key.rstrip("!"): of for key, of in schema.items()}
        for key in schema:
            if key.endswith("!") and key[:-1] not in value:
                yield f"{where}: {key[:-1]} is missing"
        for key, member in value.items():
            if key not in fields:
                yield f"{where}: {key} is not a field"
            else:
                yield from errors_of(member, fields[key], f"{where}.{key}")
    elif isinstance(schema, re.Pattern):
        if not isinstance(value, (str, int)) or isinstance(value, bool) or not schema.fullmatch(str(value)):
            yield f"{where}: {value!r} does not match {schema.pattern}"
    elif not isinstance(value, schema) or (schema is int and isinstance(value, bool)):
        yield f"{where}: {value!r} is not of type {schema.__name__}"


def containers_of(pod):
    return pod.get("initContainers", []) + pod.get("containers", [])


def daemon_set_errors(made, where):
    spec = made["spec"]
    labels = spec["template"]["metadata"]["labels"]
    if not spec["selector"]["matchLabels"].items() <= labels.items():
        yield f"{where}: the selector does not select the pods"
    if "rollingUpdate" in spec.get("updateStrategy", {}) and spec["updateStrategy"]["type"] != "RollingUpdate":
        yield f"{where}: rollingUpdate belongs to RollingUpdate"
    pod = spec["template"]["spec"]
    volumes = {v["name"]: v for v in pod.get("volumes", [])}
    if len(volumes) != len(pod.get("volumes", [])):
        yield f"{where}: two volumes of one name"
    if len({c["name"] for c in containers_of(pod)}) != len(containers_of(pod)):
        yield f"{where}: two containers of one name"
    used = set()
    for container in containers_of(pod):
        at = f"{where}/{container['name']}"
        privileged = container["securityContext"].get("privileged", False)
        seen = set()
        for mount in container.get("volumeMounts", []):
            volume, path = volumes.get(mount["name"]), mount["mountPath"]
            used.add(mount["name"])
            if volume is None:
                yield f"{at}: no volume {mount['name']}"
                continue
            if path in seen:
                yield f"{at}: two volumes at {path}"
            seen.add(path)
            if mount.get("mountPropagation") == "Bidirectional" and not privileged:
                yield f"{at}: Bidirectional is for privileged containers"
            host = volume.get("hostPath", {}).get("path")
            # containerd is given the daemon's paths.
            if path.startswith((RUN, STORE)) and host != path:
                yield f"{at}: {path} is {host} on the node"
            shared = mount.get("mountPropagation") == "Bidirectional"
            if path in (RUN + "/chains", RUN + "/mapped") and not shared:
                yield f"{at}: what is mounted in {path} is not seen by the node: it needs Bidirectional"
            if path == STORE and shared:
                yield f"{at}: nothing is mounted in {path}"
            if path == RUN and mount.get("mountPropagation") != "HostToContainer":
                yield f"{at}: {path} must be HostToContainer: not Bidirectional, and not keep what the node unmounts"
        if container.get("args", [""])[0] in ("run", "install", "remove"):
            for needed in (RUN, RUN + "/chains", RUN + "/mapped", STORE):
                if needed not in seen:
                    yield f"{at}: no volume at {needed}"
            if not privileged:
                yield f"{at}: it mounts, so it has to be privileged"
            if not pod.get("hostPID"):
                yield f"{where}: the processes of the node are not seen (hostPID)"
    for name, volume in volumes.items():
        if name not in used:
            yield f"{where}: nobody uses the volume {name}"
        if len(volume) != 2:
            yield f"{where}: the volume {name} has not one source"


def check(objects):
    seen = set()
    for made in objects:
        kind = (made.get("apiVersion"), made.get("kind"))
        where = f"{made.get('kind')}/{made.get('metadata', {}).get('name')}"
        if kind not in KINDS:
            yield f"{where}: {kind} is not known"
            continue
        found = list(errors_of(made, KINDS[kind], where))
        yield from found
        if where in seen:
            yield f"{where}: twice"
        seen.add(where)
        if ("namespace" in made["metadata"]) != (made["kind"] in NAMESPACED):
            yield f"{where}: namespace"
        if made["kind"] == "DaemonSet" and not found:
            yield from daemon_set_errors(made, where)


# ---- reading
def load(file):
    with open(file) as text:
        return [made for made in yaml.safe_load_all(text) if made]


def render(settings):
    with open(CHART + "/values.yaml") as text:
        values = yaml.safe_load(text)
    with open(CHART + "/Chart.yaml") as text:
        chart = yaml.safe_load(text)
    for setting in settings:
        key, _, value = setting.partition("=")
        *folders, last = key.split(".")
        at = values
        for folder in folders:
            at = at[folder]
        if last not in at:
            raise SystemExit(f"kubernetes.py: values.yaml has no {key}")
        at[last] = yaml.safe_load(value)
    context = {"Values": values, "Release": {"Name": "imagefs", "Namespace": "kube-system"},
               "Chart": {key[0].upper() + key[1:]: value for key, value in chart.items()}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(context, file)
        file.flush()
        environment = dict(os.environ, GO111MODULE="off")
        environment.setdefault("GOCACHE", os.path.expanduser("~/.cache/go-build"))
        ran = subprocess.run([os.environ.get("GO", "go"), "run", SOURCE + "/tests/lib/render_chart.go", CHART, file.name],
                             env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        raise SystemExit("kubernetes.py: " + ran.stderr.strip())
    return ran.stdout


def container(file, name, which):
    for made in load(file):
        if made["kind"] == "DaemonSet" and made["metadata"]["name"] == name:
            pod = made["spec"]["template"]["spec"]
            for one_of in containers_of(pod):
                if one_of["name"] == which:
                    return pod, one_of
    raise SystemExit(f"kubernetes.py: no {name}/{which} in {file}")


PROPAGATION = {"Bidirectional": "rshared", "HostToContainer": "rslave", "None": "rprivate"}


def mounts(file, name, which, maps):
    """As the kubelet and containerd make them."""
    pod, of = container(file, name, which)
    volumes = {v["name"]: v for v in pod["volumes"]}
    for mount in of["volumeMounts"]:
        volume = volumes[mount["name"]]
        options = ["rbind", PROPAGATION[mount.get("mountPropagation", "None")], "ro" if mount.get("readOnly") else "rw"]
        if "hostPath" in volume:
            source = volume["hostPath"]["path"]
        else:
            source = f"{maps}/{mount['name']}"
            os.makedirs(source, exist_ok=True)
            data = {made["metadata"]["name"]: made["data"] for made in load(file) if made["kind"] == "ConfigMap"}
            for key, text in data[volume["configMap"]["name"]].items():
                with open(f"{source}/{key}", "w") as out:
                    out.write(text)
        yield f"type=bind,src={source},dst={mount['mountPath']},options={':'.join(options)}"


def without_checksums(objects):
    out = {}
    for made in objects:
        if made["kind"] == "DaemonSet":
            made["spec"]["template"]["metadata"].get("annotations", {}).pop("checksum/config", None)
            if not made["spec"]["template"]["metadata"].get("annotations", True):
                del made["spec"]["template"]["metadata"]["annotations"]
        out[made["kind"], made["metadata"]["name"]] = made
    return out


def differences(a, b, where=""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b), key=str):
            if key not in a or key not in b:
                yield f"{where}.{key}: only in the {'second' if key not in a else 'first'}"
            else:
                yield from differences(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{where}[{i}]")
    elif a != b:
        yield f"{where}: {a!r} and {b!r}"


def main():
    verb, *words = sys.argv[1:]
    if verb == "render":
        print(render([word for word in words if word != "--set"]), end="")
        return 0
    if verb == "check":
        found = [error for file in words for error in check(load(file))]
    elif verb == "same":
        found = list(differences(*(without_checksums(load(file)) for file in words)))
    elif verb == "mounts":
        print("\n".join(mounts(*words)))
        return 0
    elif verb == "env":
        print("\n".join(f"{e['name']}={e['value']}" for e in container(*words)[1].get("env", [])))
        return 0
    elif verb == "command":
        of = container(*words)[1]
        print("\n".join(of.get("command", []) + of.get("args", [])))
        return 0
    else:
        raise SystemExit(__doc__)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
