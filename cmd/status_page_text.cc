// SPDX-License-Identifier: Apache-2.0
// Colours are those of Okabe and Ito, which people with the usual kinds of colour blindness tell
// apart. They also differ in brightness and pattern: solid, hatched, dotted, empty.
#include "cmd/status_page_text.h"

namespace imagefs {

const char kStatusStyle[] = R"css(
:root {
  color-scheme: light dark;
  --back: #ffffff; --text: #1b1b1b; --dim: #595959; --line: #d0d0d0; --panel: #f6f6f6;
  --needed: #0072b2; --prefetched: #e69f00; --fetched: #7cc8f0; --absent: #ffffff;
  --step: #595959; --wait: #d55e00; --mark: #000000; --link: #005a9c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #161616; --text: #ececec; --dim: #b0b0b0; --line: #4a4a4a; --panel: #222222;
    --needed: #4aa8e8; --prefetched: #e69f00; --fetched: #1d5f86; --absent: #161616;
    --step: #a8a8a8; --wait: #ff8a3d; --mark: #ffffff; --link: #8ec7ff;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1400px; padding: 1rem 1.5rem 3rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.45rem; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 62rem; }
a { color: var(--link); }
.dim, figcaption span { color: var(--dim); }
.bad { font-weight: 600; }
.bad::before { content: "\26a0\00a0"; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
caption { text-align: left; color: var(--dim); padding-bottom: .2rem; }
th, td { text-align: left; padding: .18rem .9rem .18rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { position: sticky; top: 0; background: var(--back); }
td.wide { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
th.num, td.num { text-align: right; font-variant-numeric: tabular-nums; }
code { font-family: ui-monospace, monospace; font-size: .92em; }
progress { width: 7rem; height: .8rem; vertical-align: middle; accent-color: var(--needed); }
input[type=search] { font: inherit; padding: .25rem .5rem; width: min(24rem, 100%); background: var(--panel);
  color: inherit; border: 1px solid var(--dim); border-radius: 4px; }
select { font: inherit; background: var(--panel); color: inherit; border: 1px solid var(--dim); border-radius: 4px; }
figure { margin: .55rem 0; }
figcaption { font-size: .92rem; }
canvas { display: block; width: 100%; border: 1px solid var(--line); cursor: crosshair; }
canvas:focus-visible, a:focus-visible, summary:focus-visible, input:focus-visible, select:focus-visible {
  outline: 3px solid var(--wait); outline-offset: 2px; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0; margin: .4rem 0; list-style: none; font-size: .92rem; }
.legend canvas { display: inline-block; width: 30px; height: 14px; vertical-align: -2px; margin-right: .45rem; cursor: default; }
.said { position: sticky; top: 0; z-index: 1; background: var(--panel); border: 1px solid var(--line); border-radius: 4px;
  padding: .4rem .7rem; min-height: 3.4rem; max-width: none; overflow-wrap: anywhere; }
.said b { font-weight: 600; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
@media print { .said { display: none; } }
)css";

const char kOverviewScript[] = R"js(
"use strict";
(() => {
  const box = document.getElementById("filter");
  let rows = null;
  const count = document.getElementById("count");
  box.closest("p").hidden = false;
  box.addEventListener("input", () => {
    rows = rows || [...document.querySelectorAll("tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
    const words = box.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const [row, text] of rows) {
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown + " of " + rows.length + " rows";
  });
})();
)js";

const char kMountScript[] = R"js(
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const STATES = ["absent", "needed", "prefetched", "fetched"];
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  // Names are somebody else's: what would change the order of the text, or end the line, is spelled out.
  const show = (name) => name.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const size = (n) => {
    for (const unit of ["bytes", "KiB", "MiB", "GiB"]) {
      if (n < 1024 || unit === "GiB") return (unit === "bytes" || n >= 100 ? n.toFixed(0) : n.toFixed(1)) + " " + unit;
      n /= 1024;
    }
  };
  const time = (us) => us < 1e4 ? (us / 1e3).toFixed(1) + " ms" : us < 1e6 ? (us / 1e3).toFixed(0) + " ms" : (us / 1e6).toFixed(2) + " s";
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  // ---- what is under the pointer or selected by keys, as text
  const say = (box, title, text) => {
    box.textContent = "";
    make("b", title, box);
    box.append(" " + text);
  };

  // ---- patterns, so that colours are not needed
  const patterns = {};
  const fill = (context, name) => {
    const key = name + colour(name);
    if (!patterns[key]) {
      const tile = document.createElement("canvas");
      tile.width = tile.height = 8;
      const c = tile.getContext("2d");
      c.fillStyle = colour(name);
      c.fillRect(0, 0, 8, 8);
      c.fillStyle = c.strokeStyle = colour("mark");
      if (name === "prefetched") {
        c.globalAlpha = 0.55;
        c.lineWidth = 1.5;
        c.beginPath();
        for (const x of [-8, 0, 8]) { c.moveTo(x, 8); c.lineTo(x + 8, 0); }
        c.stroke();
      } else if (name === "fetched") {
        c.globalAlpha = 0.45;
        c.fillRect(1, 1, 2, 2);
        c.fillRect(5, 5, 2, 2);
      }
      patterns[key] = context.createPattern(tile, "repeat");
    }
    return patterns[key];
  };
  const prepare = (canvas, height) => {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 900;
    canvas.style.height = height + "px";
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, height);
    return [context, width];
  };
  const redraws = [];
  const redraw = () => redraws.forEach((draw) => draw());
  for (const canvas of document.querySelectorAll(".legend canvas")) {
    const name = canvas.dataset.fill;
    redraws.push(() => {
      const context = prepare(canvas, 14)[0];
      context.fillStyle = name === "step" || name === "wait" ? colour(name) : fill(context, name);
      context.fillRect(0, 0, 30, 14);
    });
  }

  // Makes a canvas a control whose items are visited by arrow keys and by the pointer.
  // `kind` of an item: up and down go to the next item of another kind.
  const browse = (canvas, label, count, describe, kind, at, select) => {
    let chosen = -1;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "slider");
    canvas.setAttribute("aria-label", label);
    canvas.setAttribute("aria-valuemin", "1");
    const go = (index) => {
      if (count() === 0) return;
      chosen = Math.max(0, Math.min(count() - 1, index));
      canvas.setAttribute("aria-valuemax", count());
      canvas.setAttribute("aria-valuenow", chosen + 1);
      canvas.setAttribute("aria-valuetext", describe(chosen));
      select(chosen);
    };
    canvas.setAttribute("aria-valuemax", Math.max(1, count()));
    canvas.setAttribute("aria-valuenow", 1);
    canvas.setAttribute("aria-valuetext", count() ? "arrow keys move through " + count() + " parts" : "nothing");
    canvas.addEventListener("keydown", (event) => {
      const page = Math.max(1, Math.round(count() / 20));
      const steps = {ArrowRight: 1, ArrowLeft: -1, PageDown: page, PageUp: -page};
      const jump = {ArrowDown: 1, ArrowUp: -1}[event.key];
      if (event.key in steps) go(chosen < 0 ? 0 : chosen + steps[event.key]);
      else if (jump && count() > 0) {
        let index = Math.max(chosen, 0);
        const from = kind(index);
        while (index >= 0 && index < count() && kind(index) === from) index += jump;
        go(index);
      }
      else if (event.key === "Home") go(0);
      else if (event.key === "End") go(count() - 1);
      else return;
      event.preventDefault();
    });
    const point = (event) => {
      const index = at(event.offsetX, event.offsetY);
      if (index >= 0) go(index);
    };
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
  };

  // ---- the byte map: one bar per layer
  const number = (n) => n.toLocaleString("en");
  const describeRun = (map, run) => {
    const [begin, end, bytes, files, names] = run;
    const states = STATES.map((state, i) => [state, bytes[i]]).filter(([, n]) => n > 0);
    const what = states.length === 1 ? states[0][0] : states.map(([state, n]) => state + " " + size(n)).join(", ");
    const named = names.map((i) => show(map.names[i])).join(", ");
    const more = files - names.length;
    return what + ": bytes " + number(begin) + " to " + number(end) + " (" + size(end - begin) + "). " +
      (files === 0 ? "No file's content." : (files === 1 ? "1 file: " : number(files) + " files: ") + named +
        (named && more > 0 ? " and " + number(more) + " more" : "") + ".");
  };
  const drawMaps = () => {
    const said = byId("map-said");
    data.layers.forEach((layer, n) => {
      if (!layer.map) return;
      const map = layer.map, runs = map.runs, figure = make("figure", "", byId("maps"));
      const caption = make("figcaption", "Layer " + (n + 1) + " ", figure);
      make("span", layer.diff_id.slice(7, 19) + ", " + layer.state + ", " + size(layer.blob_bytes_present) + " of " +
        size(layer.blob_bytes) + " present, " + size(layer.blob_bytes_needed) + " needed", caption);
      const canvas = make("canvas", "", figure), height = 34;
      const total = Math.max(1, map.bytes);
      let chosen = -1, left = [];
      const draw = () => {
        const [context, width] = prepare(canvas, height);
        const ratio = window.devicePixelRatio || 1, snap = (x) => Math.round(x * ratio) / ratio;
        left = runs.map((run) => snap(run[0] / total * width));
        runs.forEach((run, i) => {
          const wide = Math.max(snap(run[1] / total * width) - left[i], 1 / ratio);
          const sum = run[2].reduce((a, b) => a + b, 0) || 1;
          let top = 0;
          // The needed bytes on top, then in the order of how early they came.
          for (const state of [1, 2, 3]) {
            if (run[2][state] === 0) continue;
            const high = Math.max(run[2][state] / sum * height, 1);
            context.fillStyle = fill(context, STATES[state]);
            context.fillRect(left[i], top, wide, high);
            top += high;
          }
        });
        if (chosen >= 0) {
          const wide = Math.max((runs[chosen][1] - runs[chosen][0]) / total * width, 3);
          context.strokeStyle = colour("mark");
          context.lineWidth = 2;
          context.strokeRect(left[chosen], 1, wide, height - 2);
        }
      };
      const at = (x) => {
        let low = 0, high = runs.length - 1, best = -1;
        while (low <= high) {
          const middle = (low + high) >> 1;
          if (left[middle] <= x) { best = middle; low = middle + 1; } else high = middle - 1;
        }
        return best;
      };
      browse(canvas, "Byte map of layer " + (n + 1), () => runs.length, (i) => describeRun(map, runs[i]),
        (i) => runs[i][2].map((n) => n > 0).join(), at, (i) => {
        chosen = i;
        say(said, "Layer " + (n + 1) + ", part " + (i + 1) + " of " + runs.length + ":", describeRun(map, runs[i]));
        draw();
      });
      redraws.push(draw);
    });
  };

  // ---- the waterfall
  const KINDS = {"on-demand": "needed", profile: "prefetched", readahead: "prefetched", background: "fetched"};
  const FOR = {"on-demand": "a reader", profile: "the profile", readahead: "reading ahead", background: "completing the layer"};
  const STEPS = {resolve: "Resolve the reference", registry: "Registry", token: "Token", indexes: "Find indexes",
    layers: "Make layers readable", merge: "Merge the trees", mount: "Mount"};
  const now = data.now_us;
  const endOf = (event) => event.ended_us < 0 ? now : event.ended_us;
  const describeEvent = (event) => {
    const took = "at " + time(event.began_us) + ", took " + time(endOf(event) - event.began_us) +
      (event.ended_us < 0 ? " and has not ended" : "") + (event.failed ? " and failed" : "");
    const layer = "layer " + event.layer;
    if (event.step === "wait") return "A read of " + size(event.end - event.begin) + " of " + layer + " waited: " + took + ".";
    if (event.step === "range") {
      const first = event.answered_us >= 0 ? ", first byte after " + time(event.answered_us - event.began_us) : "";
      return (event.hedge ? "Second request" : "Request") + " for " + size(event.end - event.begin) + " of " + layer + " at byte " +
        number(event.begin) + ", for " + (FOR[event.priority] || event.priority) + ", from " + show(event.detail) + ": " + took + first + ".";
    }
    return STEPS[event.step] + (event.detail ? " (" + show(event.detail) + ")" : "") + ": " + took + ".";
  };
  const drawWaterfall = () => {
    const box = byId("waterfall"), said = byId("waterfall-said"), zoom = byId("zoom");
    if (data.events.length === 0) return;
    const order = data.events.slice().sort((a, b) => a.began_us - b.began_us || endOf(b) - endOf(a));
    // Rows: each step of the start has its own; what concerns a layer shares rows where it does not overlap.
    const rows = [], groups = {};
    const place = (group, label, event) => {
      groups[group] = groups[group] || {label, lanes: []};
      const lanes = groups[group].lanes;
      let lane = lanes.find((one) => one.until <= event.began_us);
      if (!lane) lanes.push(lane = {until: 0, events: []});
      lane.until = endOf(event);
      lane.events.push(event);
    };
    for (const event of order) {
      if (event.layer === 0) place("0 " + String(Object.keys(STEPS).indexOf(event.step)).padStart(2, "0"), STEPS[event.step], event);
    }
    for (const event of order) {
      const padded = String(event.layer).padStart(5, "0");
      if (event.step === "wait") place("1 " + padded + " 0", "Layer " + event.layer + ": reads waited", event);
      if (event.step === "range") place("1 " + padded + " 1", "Layer " + event.layer + ": requests", event);
    }
    for (const key of Object.keys(groups).sort()) {
      const group = groups[key];
      group.lanes.slice(0, 24).forEach((lane, i) => rows.push({label: i ? "" : group.label, events: lane.events}));
      const hidden = group.lanes.slice(24).reduce((n, lane) => n + lane.events.length, 0);
      if (hidden) rows.push({label: "and " + hidden + " more at the same time", events: []});
    }
    rows.forEach((row) => row.events.forEach((event) => { event.drawn = true; }));
    const visible = order.filter((event) => event.drawn);
    const all = Math.max(1, ...order.map(endOf));
    // The start is over when the last reader has stopped waiting.
    const urgent = order.filter((event) => event.layer === 0 || event.step === "wait" || event.priority === "on-demand");
    const start = Math.max(1, ...urgent.map(endOf));
    for (const [value, text] of [[start, "until the last reader had its bytes (" + time(start) + ")"], [all, "everything (" + time(all) + ")"],
      [1e5, "the first 100 ms"], [1e6, "the first second"], [1e7, "the first 10 seconds"]]) {
      if (value > all) continue;
      make("option", text, zoom).value = value;
    }
    zoom.closest("p").hidden = false;
    const canvas = make("canvas", "", box), top = 22, high = 17;
    let chosen = -1, span = start, leftOf = 0, scale = 1;
    const x = (us) => leftOf + us * scale;
    const draw = () => {
      const [context, width] = prepare(canvas, top + rows.length * high + 6);
      leftOf = Math.min(190, width / 3);
      scale = (width - leftOf - 12) / span;
      context.font = "12px system-ui, sans-serif";
      context.textBaseline = "middle";
      let tick = Math.pow(10, Math.floor(Math.log10(span / 4)));
      for (const times of [1, 2, 5]) if (span / (tick * times) <= 8) { tick *= times; break; }
      for (let at = 0; at <= span; at += tick) {
        context.fillStyle = colour("line");
        context.fillRect(x(at), top - 4, 1, rows.length * high + 6);
        context.fillStyle = colour("dim");
        context.textAlign = at === 0 ? "left" : "center";
        if (x(at) < width - 20) context.fillText(at === 0 ? "0" : time(at), x(at), 9);
      }
      context.textAlign = "left";
      rows.forEach((row, i) => {
        const y = top + i * high;
        if (row.label) {
          context.fillStyle = colour("line");
          context.fillRect(0, y - 1, width, 1);
        }
        context.fillStyle = colour("text");
        context.fillText(row.label, 6, y + high / 2, leftOf - 10);
        for (const event of row.events) {
          if (event.began_us > span) continue;
          const name = event.step === "wait" ? "wait" : event.layer === 0 ? "step" : KINDS[event.priority];
          const begin = x(event.began_us), end = Math.max(x(Math.min(endOf(event), span)), begin + 1.5);
          const solid = event.step === "range" && event.answered_us >= 0 ? Math.min(x(event.answered_us), end) : begin;
          context.fillStyle = name === "wait" || name === "step" ? colour(name) : fill(context, name);
          context.fillRect(begin, y + high / 2 - 1.5, solid - begin, 3);  // until the first byte
          if (event.answered_us >= 0 || event.step !== "range") context.fillRect(solid, y + 2, Math.max(end - solid - 1, 1.5), high - 5);
          else context.fillRect(begin, y + high / 2 - 1.5, end - begin, 3);
          if (event.failed) {
            context.strokeStyle = colour("mark");
            context.lineWidth = 2;
            context.beginPath();
            context.moveTo(end - 4, y + 4); context.lineTo(end + 4, y + high - 5);
            context.moveTo(end + 4, y + 4); context.lineTo(end - 4, y + high - 5);
            context.stroke();
          }
          if (chosen >= 0 && visible[chosen] === event) {
            context.strokeStyle = colour("mark");
            context.lineWidth = 2;
            context.strokeRect(begin - 1, y + 1, Math.max(end - begin, 3) + 2, high - 3);
          }
        }
      });
    };
    const at = (px, py) => {
      const row = rows[Math.floor((py - top) / high)];
      if (!row) return -1;
      let best = null, distance = 6;
      for (const event of row.events) {
        const begin = x(event.began_us), end = x(endOf(event));
        const away = px < begin ? begin - px : px > end ? px - end : 0;
        if (away < distance) { best = event; distance = away; }
      }
      return best ? visible.indexOf(best) : -1;
    };
    browse(canvas, "Waterfall of the cold start", () => visible.length, (i) => describeEvent(visible[i]),
      (i) => visible[i].step, at, (i) => {
      chosen = i;
      if (visible[i].began_us > span) zoom.value = span = all;
      say(said, "Event " + (i + 1) + " of " + visible.length + ":", describeEvent(visible[i]));
      draw();
    });
    zoom.addEventListener("change", () => { span = Number(zoom.value); draw(); });
    redraws.push(draw);
  };

  if (data.layers.some((layer) => layer.map)) drawMaps();
  drawWaterfall();
  redraw();
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.documentElement.dataset.drawn = "yes";
})();
)js";

}  // namespace imagefs
