#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The example of docs/api.md, and what that document says of the control API, with a client that is not ours: who answers,
# errors, progress, cancellation.
. "$(dirname "$0")/../lib/lib.sh"
need protoc; need grpc_python_plugin
$PY -c 'import grpc' 2>/dev/null || skip "python3-grpcio is not installed"
start_registry registry
big_image big a=4 b=1
push "$T/images/big" test/big:1
start_proxy proxy
mkdir "$T/api" "$M/a"

# As the document says, but for where the protocol is.
sed -n '/^    protoc /,/^$/p' "$SOURCE/docs/api.md" | sed "s#/usr/share/imagefs/proto#$SOURCE/proto#" >"$T/api/generate"
grep -q 'control.proto' "$T/api/generate" || fail "docs/api.md does not say how to generate a client"
(cd "$T/api" && sh -e generate) || fail "the stubs of docs/api.md"
awk '/^```python$/ { on = 1; next } /^```$/ { on = 0 } on' "$SOURCE/docs/api.md" >"$T/api/example.py"

# Nobody serves the socket yet.
example() { timeout -k 5 60 $PY "$T/api/example.py" "$RUN/control.sock" "$@"; }
! example "$PROXY/test/big:1" >"$T/out" 2>&1 || fail "an answer without a daemon"
grep -q UNAVAILABLE "$T/out" || { cat "$T/out"; fail "another error"; }

ifs images >/dev/null
rules '[{"path": "blobs", "rate": 3000000}]'
example "$PROXY/test/big:1" --plain-http >"$T/out" 2>"$T/err" || { cat "$T/err"; fail "the example"; }
same "version" "version $(ifs version | sed 's/.* //')" "$(head -n 1 "$T/out")"
digest=$(ifs inspect --plain-http "$PROXY/test/big:1" --json | field 'j["manifest_digest"]')
grep -qE "^pulled $digest [0-9]{7}\$" "$T/out" || { cat "$T/out"; fail "no result"; }
[ "$(grep -c '^layers [1-9]' "$T/err")" -ge 2 ] || { cat "$T/err"; fail "no progress"; }
! example "$PROXY/test/none:1" --plain-http >"$T/out" 2>"$T/err" || fail "an image that does not exist"
grep -qE '^NOT_FOUND: .*does not exist' "$T/err" || { cat "$T/err"; fail "no code and cause"; }

# Cancellation, the mark of an answer, limits.
ifs rm "$PROXY/test/big:1" >/dev/null
rules '[{"path": "blobs", "rate": 200000}]'
cat >"$T/api/more.py" <<'PY'
import os, sys, threading, grpc
import control_pb2 as api, control_pb2_grpc

socket, reference, directory = sys.argv[1:]
channel = grpc.insecure_channel("unix:" + socket)
daemon = control_pb2_grpc.ControlStub(channel)
image = api.ImageRequest(reference=reference, plain_http=True)


def code(call, marked=True):
    """Of a call that fails; answers have a mark."""
    try:
        list(call)
    except grpc.RpcError as error:
        assert ("imagefs" in dict(call.trailing_metadata())) == marked, call.trailing_metadata()
        return error.code().name
    return "OK"


def flights():
    """But "access": the span table of a layer that is local, which is made for nobody."""
    return sum(flight.active for flight in daemon.Status(api.StatusRequest()).flights if flight.name != "access")


def gone():
    done = threading.Event()
    for _ in range(200):
        if flights() == 0:
            return True
        done.wait(0.1)
    return False


for end in "cancel", "deadline", "disconnect":
    another = grpc.insecure_channel("unix:" + socket, options=[("grpc.use_local_subchannel_pool", 1)])
    call = control_pb2_grpc.ControlStub(another).Mount(
        api.MountRequest(image=image, directory=directory, eager=True, progress=True, mode="fuse"),
        timeout=3 if end == "deadline" else None)
    event = next(call)
    while not any(layer.downloaded_bytes for layer in event.progress.layers):
        event = next(call)
    if end == "cancel":
        call.cancel()
    if end == "disconnect":
        another.close()
    assert code(call, marked=False) in ("CANCELLED", "DEADLINE_EXCEEDED"), end
    assert gone(), f"the work goes on after {end}: {daemon.Status(api.StatusRequest()).flights}"
    assert not daemon.ListMounts(api.ListMountsRequest()).mounts

assert code(daemon.Pull(api.PullRequest(image=api.ImageRequest(reference="UPPER")))) == "INVALID_ARGUMENT"
never = api.ImageRequest(reference=reference, pull_policy=api.ImageRequest.NEVER)
assert code(daemon.Pull(api.PullRequest(image=never))) == "NOT_FOUND"
answer = daemon.Unmount(api.UnmountRequest(directories=[directory]))
assert [failure.directory for failure in answer.failures] == [directory], answer
version, call = daemon.Version.with_call(api.VersionRequest())
assert dict(call.trailing_metadata()) == {"imagefs": "ok"}, call.trailing_metadata()
large = daemon.Pin.future(api.PinRequest(references=["x" * (5 << 20)]))
assert large.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, large.code()

# A client of another version: a field and a method that the daemon does not know.
unknown = channel.unary_unary("/imagefs.control.v1.Control/ListMounts")(b"\xf8\x3f\x01")
assert unknown == b""
try:
    channel.unary_unary("/imagefs.control.v1.Control/Unknown")(b"")
    assert False
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error.code()

# Other users may not connect.
if os.geteuid() == 0 and os.fork() == 0:
    os.setuid(65534)
    os._exit(0 if not os.access(socket, os.R_OK | os.W_OK) else 1)
elif os.geteuid() == 0:
    assert os.wait()[1] == 0, "others may connect"

daemon.Shutdown(api.ShutdownRequest())
print("done")
PY
same "more of the document" "done" "$(cd "$T/api" && timeout -k 5 120 $PY more.py "$RUN/control.sock" "$PROXY/test/big:1" "$M/a")"
