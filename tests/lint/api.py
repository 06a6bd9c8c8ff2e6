# SPDX-License-Identifier: Apache-2.0
"""What proto/control.proto promises, one line for each method, field and value of an enumeration, sorted.

api.py PROTO: prints it. api.py PROTO LOCK: says which lines of LOCK it does not keep. api.py PROTO LOCK --update: adds to LOCK
what is new; a line that is not kept stays."""
import os, subprocess, sys, tempfile

from google.protobuf import descriptor_pb2

FIELD = descriptor_pb2.FieldDescriptorProto


def file_of(proto):
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["protoc", "-I", os.path.dirname(proto) or ".", "-o", out.name, proto], check=True)
        return descriptor_pb2.FileDescriptorSet.FromString(out.read()).file[0]


def promises(proto):
    file = file_of(proto)
    prefix = f".{file.package}."
    lines = {f"package {file.package}"}

    def short(name):
        return name.removeprefix(prefix)

    def type_of(field):
        return short(field.type_name) or FIELD.Type.Name(field.type).removeprefix("TYPE_").lower()

    def enumeration(enum, scope):
        lines.update(f"enum {scope}{enum.name} {value.number} {value.name}" for value in enum.value)

    def message(what, scope):
        name = scope + what.name
        lines.add(f"message {name}")
        for field in what.field:
            repeated = "repeated " if field.label == FIELD.LABEL_REPEATED else ""
            lines.add(f"field {name} {field.number} {repeated}{type_of(field)} {field.name}")
        for inner in what.nested_type:
            message(inner, name + ".")
        for enum in what.enum_type:
            enumeration(enum, name + ".")

    for what in file.message_type:
        message(what, "")
    for enum in file.enum_type:
        enumeration(enum, "")
    for service in file.service:
        for method in service.method:
            stream = ["stream " if streaming else "" for streaming in (method.client_streaming, method.server_streaming)]
            lines.add(f"method {service.name}.{method.name} {stream[0]}{short(method.input_type)} -> "
                      f"{stream[1]}{short(method.output_type)}")
    return lines


now = promises(sys.argv[1])
if len(sys.argv) == 2:
    print(*sorted(now), sep="\n")
    sys.exit()
locked = set(open(sys.argv[2]).read().splitlines())
if sys.argv[3:] == ["--update"]:
    with open(sys.argv[2], "w") as out:
        print(*sorted(locked | now), sep="\n", file=out)
broken = sorted(locked - now)
print(*(f"{sys.argv[1]} does not keep: {line}" for line in broken), sep="\n", end="\n" if broken else "")
sys.exit(bool(broken))
