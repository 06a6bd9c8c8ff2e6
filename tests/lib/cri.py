#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A small client of the container runtime interface: every verb prints one JSON value.

  cri.py [--socket PATH] [--stubs DIR] VERB ...

The stubs are generated into DIR at the first call, from proto/cri.proto and tests/lib/cri.proto, by Debian's
protoc and grpc_python_plugin. A failed call prints {"code": "NOT_FOUND", "message": "..."} on stderr and exits with 1.

Pods have the node's network, so that no CNI plugin is needed. A pod's log folder is --logs, and a
container's log in it is NAME.log.
"""
import argparse
import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import grpc
from google.protobuf import json_format

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEADLINE = 300


def load_stubs(directory):
    os.makedirs(directory, exist_ok=True)
    with open(directory + "/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(directory + "/made"):
            subprocess.run(["protoc", "-I", SOURCE, "--python_out", directory, "--grpc_python_out", directory,
                            "--plugin", "protoc-gen-grpc_python=" + shutil.which("grpc_python_plugin"),
                            "proto/cri.proto", "tests/lib/cri.proto"], cwd=SOURCE, check=True)
            open(directory + "/made", "w").close()
    sys.path.insert(0, directory)
    global cri, image, cri_grpc, image_grpc
    from tests.lib import cri_pb2 as cri, cri_pb2_grpc as cri_grpc
    from proto import cri_pb2 as image, cri_pb2_grpc as image_grpc


def as_json(message):
    return json_format.MessageToDict(message, including_default_value_fields=True, preserving_proto_field_name=True)


def auth_of(args):
    """None, or the AuthConfig that --creds, --auth, --identity-token or --registry-token ask for."""
    if args.creds:
        user, _, password = args.creds.partition(":")
        return image.AuthConfig(username=user, password=password)
    if args.auth:
        return image.AuthConfig(auth=base64.b64encode(args.auth.encode()).decode())
    if args.identity_token:
        return image.AuthConfig(identity_token=args.identity_token)
    if args.registry_token:
        return image.AuthConfig(registry_token=args.registry_token)
    return None


class Client:
    def __init__(self, socket):
        self.socket = socket
        self.channel = grpc.insecure_channel("unix:" + socket, options=[("grpc.max_receive_message_length", 1 << 24)])
        self.runtime = cri_grpc.RuntimeServiceStub(self.channel)
        self.images = image_grpc.ImageServiceStub(self.channel)

    def pull(self, args):
        """References are pulled at the same instant, each --parallel times."""
        refs = [ref for ref in args.ref for _ in range(args.parallel)]
        gate, results = threading.Barrier(len(refs)), [None] * len(refs)

        def one(i):
            # A channel of its own: separate kubelets would not share a connection either.
            with grpc.insecure_channel("unix:" + self.socket, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                grpc.channel_ready_future(channel).result(timeout=20)
                request = cri.PullForPod(image=image.ImageSpec(image=refs[i]), auth=auth_of(args))
                if args.handler:
                    request.sandbox_config.CopyFrom(self.pod_config("pulls", "", args.handler))
                pull = channel.unary_unary("/runtime.v1.ImageService/PullImage",
                                           request_serializer=cri.PullForPod.SerializeToString,
                                           response_deserializer=image.PullImageResponse.FromString)
                gate.wait()
                start = time.monotonic()
                result = {"ref": refs[i]}
                try:
                    result["image_ref"] = pull(request, timeout=args.deadline).image_ref
                except grpc.RpcError as error:
                    result["error"] = {"code": error.code().name, "message": error.details()}
                result["begin"] = start
                result["seconds"] = time.monotonic() - start
                results[i] = result

        began = time.monotonic()
        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(refs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first = min((r["begin"] for r in results), default=began)
        for result in results:
            result["begin"] -= first
        failed = [r for r in results if "error" in r]
        total = max(r["begin"] + r["seconds"] for r in results)
        return {"seconds": total, "failed": len(failed), "pulls": results}, 1 if failed else 0

    def images_(self, args):
        return sorted((as_json(i) for i in self.images.ListImages(image.ListImagesRequest()).images), key=lambda i: i["id"])

    def image_status(self, args):
        answer = self.images.ImageStatus(
            image.ImageStatusRequest(image=image.ImageSpec(image=args.ref), verbose=args.verbose))
        return as_json(answer) if answer.HasField("image") else None

    def rmi(self, args):
        self.images.RemoveImage(image.RemoveImageRequest(image=image.ImageSpec(image=args.ref)))
        return {}

    def image_fs_info(self, args):
        return as_json(self.images.ImageFsInfo(image.ImageFsInfoRequest()))

    def version(self, args):
        return as_json(self.runtime.Version(cri.VersionRequest()))

    def status(self, args):
        return as_json(self.runtime.Status(cri.StatusRequest()))

    @staticmethod
    def pod_config(name, logs, handler=""):
        context = cri.LinuxSandboxSecurityContext(
            namespace_options=cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER))
        return cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=name, namespace="test"), log_directory=logs,
            # What a pod of a runtime class has, where the class has a snapshotter of its own.
            annotations={"io.containerd.cri.runtime-handler": handler} if handler else {},
            linux=cri.LinuxPodSandboxConfig(security_context=context))

    def run_pod(self, args):
        answer = self.runtime.RunPodSandbox(cri.RunPodSandboxRequest(
            config=self.pod_config(args.name, args.logs, args.handler), runtime_handler=args.handler), timeout=DEADLINE)
        return {"pod": answer.pod_sandbox_id}

    def create(self, args):
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=args.name),
            image=cri.ImageOfContainer(image=args.image, user_specified_image=args.user_image or args.image),
            command=args.command, log_path=args.name + ".log",
            envs=[cri.KeyValue(key=k, value=v) for k, _, v in (e.partition("=") for e in args.env)],
            mounts=[cri.Mount(host_path=h, container_path=c) for h, _, c in (m.partition(":") for m in args.mount)] +
            [cri.Mount(image=cri.ImageOfContainer(image=ref, user_specified_image=ref), container_path=c, readonly=True)
             for c, _, ref in (m.partition("=") for m in args.image_volume)],
            linux=cri.LinuxContainerConfig(security_context=cri.LinuxContainerSecurityContext(
                namespace_options=cri.NamespaceOption(network=cri.NODE, pid=cri.CONTAINER),
                readonly_rootfs=args.read_only)))
        answer = self.runtime.CreateContainer(cri.CreateContainerRequest(
            pod_sandbox_id=args.pod, config=config, sandbox_config=self.pod_config(args.pod_name, args.logs, args.handler)), timeout=DEADLINE)
        return {"container": answer.container_id}

    def start(self, args):
        self.runtime.StartContainer(cri.StartContainerRequest(container_id=args.container), timeout=DEADLINE)
        return {}

    def exec_sync(self, args):
        answer = self.runtime.ExecSync(cri.ExecSyncRequest(container_id=args.container, cmd=args.command, timeout=args.timeout),
                                       timeout=DEADLINE)
        return {"stdout": answer.stdout.decode(errors="replace"), "stderr": answer.stderr.decode(errors="replace"),
                "exit_code": answer.exit_code}

    def container_status(self, args):
        return as_json(self.runtime.ContainerStatus(cri.ContainerStatusRequest(container_id=args.container)).status)

    def wait(self, args):
        """Until the container has ended; its status."""
        deadline = time.monotonic() + args.timeout
        while time.monotonic() < deadline:
            status = self.container_status(args)
            if status["state"] == "CONTAINER_EXITED":
                return status
            time.sleep(0.02)
        raise SystemExit(f"cri.py: {args.container} still runs after {args.timeout} s")

    def logs(self, args):
        """What the container has written so far: lines are "TIME STREAM TAG TEXT"."""
        out = {"stdout": "", "stderr": ""}
        with open(self.container_status(args)["log_path"], errors="replace") as f:
            for line in f:
                _, stream, tag, text = line.rstrip("\n").split(" ", 3)
                out[stream] += text + ("" if tag == "P" else "\n")
        return out

    def stats(self, args):
        return as_json(self.runtime.ContainerStats(cri.ContainerStatsRequest(container_id=args.container)).stats)

    def stop(self, args):
        self.runtime.StopContainer(cri.StopContainerRequest(container_id=args.container, timeout=args.timeout))
        return {}

    def rm(self, args):
        self.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=args.container))
        return {}

    def ps(self, args):
        return [as_json(c) for c in self.runtime.ListContainers(cri.ListContainersRequest()).containers]

    def pods(self, args):
        return [as_json(p) for p in self.runtime.ListPodSandbox(cri.ListPodSandboxRequest()).items]

    def stop_pod(self, args):
        self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=args.pod))
        return {}

    def rm_pod(self, args):
        self.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=args.pod))
        return {}

    def events(self, args):
        """The first --count container events; says "ready" on stderr once the stream stands."""
        stream = self.runtime.GetContainerEvents(cri.GetEventsRequest(), timeout=args.timeout)
        print("ready", file=sys.stderr, flush=True)
        return [as_json(event) for event, _ in zip(stream, range(args.count))]


def parser():
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--socket", required=True)
    top.add_argument("--stubs", required=True)
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name, *words, call=None):
        made = verbs.add_parser(name)
        made.set_defaults(call=call or name.replace("-", "_"))
        for word in words:
            made.add_argument(word)
        return made

    pull = verb("pull")
    pull.add_argument("ref", nargs="+")
    for option in ("--creds", "--auth", "--identity-token", "--registry-token"):
        pull.add_argument(option)
    pull.add_argument("--handler", default="", help="as for a pod of that runtime class")
    pull.add_argument("--parallel", type=int, default=1)
    pull.add_argument("--deadline", type=float, default=DEADLINE)
    verb("images", call="images_")
    verb("image-status", "ref").add_argument("--verbose", action="store_true")
    verb("rmi", "ref")
    verb("image-fs-info")
    verb("version")
    verb("status")
    pod = verb("run-pod", "name")
    pod.add_argument("--logs", default="")
    pod.add_argument("--handler", default="")
    create = verb("create", "pod", "pod_name", "name", "image")
    create.add_argument("command", nargs=argparse.REMAINDER)
    create.add_argument("--logs", default="")
    create.add_argument("--env", action="append", default=[])
    create.add_argument("--mount", action="append", default=[], help="HOST:CONTAINER")
    create.add_argument("--handler", default="")
    create.add_argument("--image-volume", action="append", default=[], help="CONTAINER=IMAGE, as the kubelet asks")
    create.add_argument("--user-image", help="the name that the pod gives, where IMAGE is an id")
    create.add_argument("--read-only", action="store_true")
    for name in ("start", "rm", "stats", "logs"):
        verb(name, "container")
    verb("status-of", "container", call="container_status")
    verb("wait", "container").add_argument("--timeout", type=float, default=60)
    verb("stop", "container").add_argument("--timeout", type=int, default=0)
    run = verb("exec-sync")
    run.add_argument("--timeout", type=int, default=60)
    run.add_argument("container")
    run.add_argument("command", nargs=argparse.REMAINDER)
    verb("ps")
    verb("pods")
    verb("stop-pod", "pod")
    verb("rm-pod", "pod")
    events = verb("events")
    events.add_argument("--count", type=int, default=1)
    events.add_argument("--timeout", type=float, default=60)
    return top


def main():
    args = parser().parse_args()
    load_stubs(args.stubs)
    try:
        result = getattr(Client(args.socket), args.call)(args)
    except grpc.RpcError as error:
        print(json.dumps({"code": error.code().name, "message": error.details()}), file=sys.stderr)
        return 1
    status = 0
    if isinstance(result, tuple):
        result, status = result
    print(json.dumps(result))
    return status


if __name__ == "__main__":
    sys.exit(main())
