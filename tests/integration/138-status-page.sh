#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The status page: what it says of a lazy mount is what `status --json` and the registry's side say; it is served where the
# configuration says so, to nobody that a web site sends; a browser without a network draws it, by pointer and by keys.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_fuse; need curl
start_registry registry
start_shaper line --rtt 20 --rate 200Mbit
lazy_image app gzip
publish app
SOCKET=$T/metrics.sock
configure '[metrics]' "listen = \"$SOCKET\"" 'page = true' '[fill]' 'background = false'
get() { curl -sS --max-time 20 --unix-socket "$SOCKET" -o "$T/answer" -w '%{http_code}' "$@"; }
page() { curl -fsS --max-time 20 --unix-socket "$SOCKET" -G --data-urlencode "directory=$1" -D "$T/headers" http://localhost/mount; }
# data FILE: the JSON that a page embeds.
data() { $PY -c 'import re, sys
print(re.search(r"<script type=\"application/json\" id=\"data\">(.*?)</script>", open(sys.argv[1]).read(), re.S)[1])' "$1"; }

# ---- a cold start, some reads, and a profile-less readahead
odd="$M/<b>&\"'%20 ü"
mkdir "$M/a" "$odd"
forget_requests
ifs mount -q --mode fuse "$SHAPED/test/app:1" "$M/a" >/dev/null
cat "$M/a/usr/share/doc/1/45" >/dev/null
head -c 4096 "$M/a/usr/lib/random" >/dev/null
head -c 4096 "$M/a/usr/lib/upper7" >/dev/null
wait_for 10 '[ "$(state "$M/a" | field "sum(len(l[\"in_flight\"]) for l in j[\"layers\"])")" = 0 ]' || fail "requests do not end"
state "$M/a" >"$T/state.json"
page "$M/a" >"$T/page.html"
data "$T/page.html" >"$T/page.json"
for header in "Content-Security-Policy: default-src 'none'; script-src 'sha256-" "X-Content-Type-Options: nosniff" \
  "Cache-Control: no-store" "Content-Type: text/html; charset=utf-8" "Referrer-Policy: no-referrer"; do
  grep -qiF "$header" "$T/headers" || fail "no header $header: $(cat "$T/headers")"
done
$PY - "$T/state.json" "$T/page.json" "$(counter fill_requests)" "$(counter fill_waits)" "$(sent app)" <<'PY' || fail "the page and status --json differ"
import json, sys
state, page = json.load(open(sys.argv[1])), json.load(open(sys.argv[2]))
requests, waits, sent = map(int, sys.argv[3:])
events = page.pop("events")
assert page.pop("events_dropped") == 0 and page.pop("events_began_unix_ms") > 0
now = page.pop("now_us")
maps = [layer.pop("map") for layer in page["layers"]]
assert page == state, (page, state)
for layer, map in zip(state["layers"], maps):
    sums, end = [0] * 4, 0
    for begin, stop, by_state, files, names in map["runs"]:
        assert end <= begin < stop <= map["bytes"], (begin, stop)
        end = stop
        sums = [a + b for a, b in zip(sums, by_state)]
        assert len(names) == min(files, 3)
    assert sum(sums) == layer["blob_bytes"], (sums, layer)
    assert sum(sums[1:]) == layer["blob_bytes_present"], (sums, layer)
    assert sums[1] == layer["blob_bytes_needed"], (sums, layer)
    map["needed"] = {map["names"][i] for run in map["runs"] if run[2][1] for i in run[4]}
    print(len(map["runs"]), "runs", sums, sorted(map["needed"])[:5])
assert "usr/lib/random" in maps[0]["needed"] and any(name.startswith("usr/lib/upper") for name in maps[1]["needed"]), maps
steps = {event["step"] for event in events}
assert {"resolve", "registry", "indexes", "layers", "merge", "mount", "range", "wait"} <= steps, steps
for event in events:
    assert 0 <= event["began_us"] <= event["ended_us"] <= now and not event["failed"], event
    assert (event["layer"] > 0) == (event["step"] in ("range", "wait")), event
    if event["step"] == "range":
        assert event["began_us"] <= event["answered_us"] <= event["ended_us"], event
        assert event["end"] <= maps[event["layer"] - 1]["bytes"] and event["priority"] in ("on-demand", "readahead"), event
ranges = [event for event in events if event["step"] == "range"]
assert len(ranges) == requests, (len(ranges), requests)
assert sum(event["end"] - event["begin"] for event in ranges) == sent, (ranges, sent)
assert sum(event["step"] == "wait" for event in events) == waits, waits
assert events[0]["step"] == "resolve", events[0]
# The line's round trip is part of every call to the registry.
for event in events:
    if event["step"] in ("registry", "range"):
        assert event["ended_us"] - event["began_us"] >= 15000, event
PY

# ---- the same as a file and on standard output; nothing else is asked for
ifs status --html "$T/file.html" "$M/a" >"$T/out"
same "nothing on standard output" 0 "$(wc -c <"$T/out")"
ifs status --html - "$M/a" >"$T/out.html"
for file in file out; do
  data "$T/$file.html" | field '[j["layers"], len(j["events"])]' >"$T/$file.data"
  field '[j["layers"], len(j["events"])]' <"$T/page.json" | cmp - "$T/$file.data" || fail "$file.html has other data than the page"
done
grep -q 'All mounts' "$T/file.html" && fail "a file links to the daemon's overview"
refuse 2 'DIR|--html' ifs status --html "$T/x.html"
refuse 4 "$T/none/x.html: .*No such file" ifs status --html "$T/none/x.html" "$M/a"
refuse 4 'no imagefs mount' ifs status --html - "$odd"

# ---- a directory with a hostile name, from the overview to its page
ifs mount -q --mode fuse "$SHAPED/test/app:1" "$odd" >/dev/null
same "overview" 200 "$(get http://localhost/)"
cp "$T/answer" "$T/overview.html"
$PY - "$T/overview.html" "$M/a" "$odd" >"$T/link" <<'PY' || fail "the overview does not list the mounts"
import html.parser, sys, urllib.parse
class Parser(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links = set(), []
    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "a": self.links.append(dict(attributes)["href"])
parser = Parser()
parser.feed(open(sys.argv[1]).read())
assert "b" not in parser.tags, parser.tags
found = {urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)["directory"][0]: link for link in parser.links}
assert set(found) == set(sys.argv[2:]), found
print(found[sys.argv[3]])
PY
same "page of an odd directory" 200 "$(get "http://localhost/$(cat "$T/link")")"
data "$T/answer" | field 'j["directory"]' >"$T/directory"
same "its directory" "$odd" "$(cat "$T/directory")"

# ---- who is refused
same "no directory" 400 "$(get http://localhost/mount)"
same "no mount" 404 "$(get 'http://localhost/mount?directory=/etc')"
same "another path" 404 "$(get http://localhost/mount/)"
for host in evil.example evil.example:9180 localhost.evil.example 127.0.0.1.evil.example; do
  same "page for $host" 403 "$(get -H "Host: $host" http://localhost/)"
  same "page of a mount for $host" 403 "$(get -H "Host: $host" "http://localhost/mount?directory=$M/a")"
  same "metrics for $host" 200 "$(get -H "Host: $host" http://localhost/metrics)"
done
for host in 127.0.0.1:9180 '[::1]:9180' 10.0.0.1 LOCALHOST; do
  same "page for $host" 200 "$(get -H "Host: $host" http://localhost/)"
done
same "another method" 405 "$(get -X POST http://localhost/)"

# ---- a browser
if ! command -v chromium >/dev/null; then
  echo "NOT TESTED: chromium is not installed (Debian's package chromium): no browser drew the status page" >&2
else
  SHOTS=${SHOTS:-$T} $PY - "$LIB" "$T" <<'PY' || fail "the browser"
import json, os, re, sys, urllib.parse
sys.path.insert(0, sys.argv[1])
from browser import Browser
tmp, shots = sys.argv[2], os.environ["SHOTS"]
data = json.load(open(tmp + "/page.json"))
url = lambda name: "file://" + urllib.parse.quote(tmp + "/" + name)
with Browser() as browser:
    browser.open(url("page.html"))
    assert browser.run("document.documentElement.dataset.drawn") == "yes", browser.problems
    assert browser.run("document.querySelectorAll('#maps canvas').length") == len(data["layers"])
    assert browser.run("document.querySelectorAll('#waterfall canvas').length") == 1
    # The table is what the JSON says.
    rows = browser.run("[...document.querySelectorAll('details tbody tr')].length")
    assert rows == len(data["events"]), (rows, len(data["events"]))
    browser.shot(shots + "/light.png")
    # Keys: the first map is the first that Tab reaches after the links.
    for _ in range(8):
        browser.key("Tab")
        if browser.run("document.activeElement.parentElement.parentElement?.id") == "maps":
            break
    focus = "document.activeElement.getAttribute('%s')"
    assert browser.run(focus % "role") == "slider", browser.run("document.activeElement.outerHTML")
    runs = data["layers"][0]["map"]["runs"]
    assert int(browser.run(focus % "aria-valuemax")) == len(runs)
    said = "document.getElementById('map-said').textContent"
    seen = []
    for key, number in (("Home", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", len(runs))):
        browser.key(key)
        number = min(number, len(runs))
        assert int(browser.run(focus % "aria-valuenow")) == number, (key, number)
        text = browser.run(said)
        assert browser.run(focus % "aria-valuetext") in text, text
        assert f"bytes {runs[number - 1][0]:,} to {runs[number - 1][1]:,}" in text, (text, runs[number - 1])
        seen.append(text)
    assert any("usr/" in text for text in seen), seen
    # The pointer says the same.
    box = browser.run("(() => { const b = document.activeElement.getBoundingClientRect(); return [b.x, b.y, b.width]; })()")
    browser.point(box[0] + 2, box[1] + 10)
    assert "part 1 of" in browser.run(said), browser.run(said)
    # The waterfall.
    browser.run("document.querySelector('#waterfall canvas').focus()")
    browser.key("Home")
    text = browser.run("document.getElementById('waterfall-said').textContent")
    assert re.match(r"Event 1 of \d+: Resolve the reference \(.*test/app:1\): at 0.0 ms, took ", text), text
    browser.key("End")
    assert f"Event {len(data['events'])} of" in browser.run("document.getElementById('waterfall-said').textContent")
    browser.dark()
    browser.shot(shots + "/dark.png")
    assert browser.requested == [url("page.html")], browser.requested
    assert not browser.problems, browser.problems

    browser.dark(False)
    browser.open(url("overview.html"))
    assert browser.run("document.querySelectorAll('main table').length") == 3
    shown = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).length"
    all_rows = browser.run(shown)
    browser.run("(() => { const box = document.getElementById('filter'); box.value = 'test/app'; box.dispatchEvent(new Event('input')); })()")
    assert 0 < browser.run(shown) < all_rows, (browser.run(shown), all_rows)
    browser.shot(shots + "/overview.png")
    assert browser.requested == [url("overview.html")] and not browser.problems, browser.problems
PY
fi

# ---- without the setting there is no page; the setting needs an address
ifs stop
configure '[metrics]' "listen = \"$SOCKET\""
ifs ls >/dev/null
same "overview that is off" 404 "$(get http://localhost/)"
same "mount that is off" 404 "$(get "http://localhost/mount?directory=$M/a")"
same "metrics" 200 "$(get http://localhost/metrics)"
# The next daemon has no record of the start, and says so. A layer that was filled meanwhile has no map.
ifs status --html - "$M/a" >"$T/later.html"
data "$T/later.html" >"$T/later.json"
mapped=$(field '" ".join(l["diff_id"] for l in j["layers"] if "map" in l)' <"$T/later.json")
[ -n "$mapped" ] || fail "no layer is mapped, so this test shows nothing"
same "kept bytes" "$(field 'sum(l["blob_bytes_present"] for l in j["layers"] if l["diff_id"] in "'"$mapped"'")' <"$T/state.json")" \
  "$(field 'sum(sum(r[2][1:]) for l in j["layers"] if "map" in l for r in l["map"]["runs"])' <"$T/later.json")"
ifs umount --all >/dev/null
ifs stop
configure '[metrics]' 'page = true'
refuse 7 'config.toml: metrics.page needs metrics.listen' ifs ls
configure
