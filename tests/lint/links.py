# SPDX-License-Identifier: Apache-2.0
"""Says which references of the Markdown files lead nowhere: links, their anchors, paths, names of script tests.

links.py FILE... from the top of the sources; `links.py --installed DIR` looks at the links of all such files below DIR, where
no link may lead out of it."""
import functools, glob, os, re, sys

FOLDERS = "base bench cache cmake cmd completions docs fetch fs image packaging proto scripts snap systemd tests".split()
KINDS = "fault golden integration lint parity security vm".split()
PATH = re.compile(r"(?<![\w./<$~:-])((?:%s)/(?:[\w.*{},/-]|<\w+>)*)" % "|".join(FOLDERS))
# `integration.061-conformance`, `fault/067-upgrade` and `security.060` are tests/KIND/NNN*.sh, `040` of any kind.
TEST = re.compile(r"(?<![\w./-])(%s)[./](\d{3}(?:-[a-z0-9-]+)?)(?![\w-])|`(\d{3}(?:-[a-z0-9-]+)?)`" % "|".join(KINDS))
# `auth_test`, `RealmTest`, `fetch.RealmTest`, `RealmTest.Name`, and `Name` where "unit, " stands before it.
UNIT = re.compile(r"(?<![\w./-])([a-z0-9_]+_test)\b(?!/)|`(?:[a-z]+\.)?([A-Z]\w+Test)(?:\.(\w+))?`|(?<=unit, )`([A-Z]\w+)`")
# Of other people's trees.
FOREIGN = {"fs/erofs/erofs_fs.h"}
LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
problems = []


@functools.cache
def unit_tests():
    text = "".join(open(name).read() for name in glob.glob("tests/**/*_test.cc", recursive=True))
    return re.findall(r"\bTEST(?:_[FP])?\(\s*(\w+),\s*(\w+)", text)


def anchors(text):
    """The names that a host of Markdown files gives to the headings."""
    found = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *$", FENCE.sub("", text), re.M):
        name = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w -]", "", name).replace(" ", "-")
        count = found[name] = found.get(name, -1) + 1
        if count:
            found[f"{name}-{count}"] = 0
    return found


def exists(path):
    """With <folder> and * for any name, {a,b} for either."""
    either = re.search(r"\{([^{}]*)\}", path)
    if either:
        return all(exists(path[: either.start()] + part + path[either.end() :]) for part in either[1].split(","))
    path = re.sub(r"<\w+>|NNN-name|NAME", "*", path)
    return bool(glob.glob(path.rstrip("/")))


def source(path):
    """A path of the tree, or of the tree without an ending: cache/kv is cache/kv.h."""
    path = path.rstrip(".,")
    return exists(path) or exists(path + ".*")


def reporter(file, prose):
    def say(match, why):
        problems.append(f"{file}:{prose.count(chr(10), 0, match.start()) + 1}: {match[0]}: {why}")

    return say


def prose_of(text):
    return FENCE.sub(lambda m: "\n" * m[0].count("\n"), text)


def check_links(file, text, top="."):
    """Returns how many there are. None may lead out of `top`."""
    prose = prose_of(text)
    say = reporter(file, prose)
    count = 0
    for match in LINK.finditer(re.sub(r"`[^`\n]*`", lambda m: " " * len(m[0]), prose)):
        target, _, anchor = match[1].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        count += 1
        path = os.path.normpath(os.path.join(os.path.dirname(file), target)) if target else file
        if os.path.relpath(path, top).startswith(".."):
            say(match, "leads out of the documents")
        elif not os.path.exists(path):
            say(match, "no such file")
        elif anchor and not (path.endswith(".md") and anchor in anchors(open(path).read())):
            say(match, "no such heading")
    return count


def check_names(file, text):
    here = os.path.dirname(file)
    prose = prose_of(text)
    say = reporter(file, prose)
    # A link was looked at before; it may be relative.
    words = LINK.sub(lambda m: "[" + " " * (len(m[0]) - 1), prose)
    for match in PATH.finditer(words):
        if match[1] not in FOREIGN and not source(match[1]) and not source(os.path.join(here, match[1])):
            say(match, "no such path")
    for match in TEST.finditer(words):
        script = f"tests/{match[1] or '*'}/{match[2] or match[3]}"
        if not glob.glob(script + ".sh") and not glob.glob(script + "-*.sh"):
            say(match, "no such test")
    for match in UNIT.finditer(words):
        file_name, suite, name, name_alone = match.groups()
        if file_name:
            there = glob.glob(f"tests/**/{file_name}.*", recursive=True)
        else:
            name = name or name_alone
            there = any((not suite or a == suite) and (not name or b == name) for a, b in unit_tests())
        if not there:
            say(match, "no such test")


if sys.argv[1] == "--installed":
    top = sys.argv[2]
    files = glob.glob(f"{top}/**/*.md", recursive=True)
    links = sum(check_links(name, open(name).read(), top) for name in files)
    print(f"{len(files)} files, {links} links")
else:
    for name in sys.argv[1:]:
        text = open(name).read()
        check_links(name, text, os.path.dirname(name) if os.path.isabs(name) else ".")
        check_names(name, text)
print(*problems, sep="\n", end="\n" if problems else "")
sys.exit(bool(problems))
