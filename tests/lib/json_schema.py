# SPDX-License-Identifier: Apache-2.0
"""Compares what the command prints with docs/json-schema.json and docs/json.md.

  json_schema.py check DEFINITION FILE    the JSON in FILE is exactly that definition: members that are not documented
                                          are wrong here, although programs must bear them
  json_schema.py failure FILE STATUS ERR  FILE is the object of a failure with that exit status, whose message is the
                                          last line of the file ERR, without "imagefs: "
  json_schema.py documents                json.md shows each definition, with the same members in the same order, and
                                          each code with its exit status
Prints what is wrong; ends with 1 if something is.
"""
import copy, json, os, re, sys

import jsonschema

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs")
SCHEMA = json.load(open(f"{DOCS}/json-schema.json"))


def strict(node):
    """The same schema, in which all members are known."""
    if isinstance(node, dict):
        if "properties" in node:
            node.setdefault("additionalProperties", False)
        for value in node.values():
            strict(value)
    elif isinstance(node, list):
        for value in node:
            strict(value)
    return node


def problems(definition, document):
    assert definition in SCHEMA["$defs"], definition
    schema = strict(copy.deepcopy(SCHEMA))
    del schema["anyOf"]
    schema["$ref"] = f"#/$defs/{definition}"
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{definition}: {'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(document)]


def failure(document, status, err):
    wrong = problems("failure", document)
    if wrong:
        return wrong
    error = document["error"]
    if error["exit"] != status:
        wrong.append(f"exit is {error['exit']}, the status {status}")
    if error["message"] != error["cause"] + ("; " + error["remedy"] if error["remedy"] else ""):
        wrong.append(f"not cause and remedy: {error}")
    said = open(err).read().splitlines()
    if error["code"] != "interrupted" and (not said or said[-1] != "imagefs: " + error["message"]):
        wrong.append(f"standard error says {said}, not {error['message']}")
    for quote in '"`':
        if any(error[part].count(quote) % 2 for part in ("cause", "remedy")):
            wrong.append(f"a quotation was cut: {error}")
    return wrong


def shape(schema, short_errors):
    """A definition in the notation of json.md."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name == "error" and short_errors:
            return "{}"
        return shape(SCHEMA["$defs"][name], short_errors)
    if schema.get("type") == "array":
        return f"[{shape(schema['items'], short_errors)}]"
    if "properties" in schema:
        members = [name + shape(one, short_errors) for name, one in schema["properties"].items()]
        return "{" + ", ".join(members) + "}"
    if "additionalProperties" in schema:
        inner = shape(schema["additionalProperties"], short_errors)
        return "{NAME" + (": " + inner if inner else "") + "}"
    return "{}" if schema.get("type") == "object" else ""


def documents():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = open(f"{DOCS}/json.md").read()
    shown = dict(re.findall(r"^\| [^|]*\| `([a-z-]+)` \| ([{\[].*) \|$", text, re.M))
    definitions = [one["$ref"].rsplit("/", 1)[1] for one in SCHEMA["anyOf"]]
    wrong = [f"json.md shows {name} as {shown.get(name)}, the schema has {want}"
             for name in definitions
             for want in [shape(SCHEMA["$defs"][name], name != "failure")] if shown.get(name) != want]
    wrong += [f"json.md shows {name}, which is not in the schema" for name in shown if name not in definitions]
    error = SCHEMA["$defs"]["error"]["properties"]
    codes = dict((code, int(status)) for status, code in re.findall(r"^\| (\d+) \| `([a-z_]+)` \|", text, re.M))
    if sorted(codes) != sorted(error["code"]["enum"]) or sorted(codes.values()) != sorted(error["exit"]["enum"]):
        wrong.append(f"json.md has the codes {codes}, the schema others")
    page = open(f"{DOCS}/man/imagefs.1").read()
    page = page[page.index(".Sh EXIT STATUS"):page.index(".Sh EXAMPLES")]
    if sorted(map(int, re.findall(r"^\.It (\d+)$", page, re.M))) != sorted([0, *codes.values()]):
        wrong.append("imagefs(1) has other exit statuses")
    return wrong


def main(verb, *words):
    if verb == "check":
        found = problems(words[0], json.load(open(words[1])))
    elif verb == "failure":
        found = failure(json.load(open(words[0])), int(words[1]), words[2])
    else:
        found = documents()
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


sys.exit(main(*sys.argv[1:]))
