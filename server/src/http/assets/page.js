"use strict";
// The page: events in, figures, charts and the heap map out. Needs nothing but this server.

const $ = (id) => document.getElementById(id);

/** Parts of the resident memory as the chart stacks them, from below; what has no place goes to the last one. */
const STACK = [
  ["Keys and values", ["keys", "values"], "#2f6fb3", "#4c93dd"],
  ["Headers and rounding", ["entry_headers", "rounding"], "#5aa0d0", "#77b9e6"],
  ["Table", ["table"], "#2a9d8f", "#3fbfae"],
  ["Free slots", ["free_slots"], "#f08a3c", "#f59b52"],
  ["Dirty pages", ["dirty_pages"], "#cf5f9a", "#e07fb4"],
  ["Buffers and other objects", ["clients", "heap_objects"], "#8b6bc0", "#a98be0"],
  ["Free room of the heap", ["heap_free_slots", "heap_cached_slots", "heap_dirty_pages"], "#c493c8", "#cfa3d6"],
  ["Allocator records", ["metadata", "heap_metadata"], "#7d8a97", "#93a1b0"],
  ["Program and the rest", [], "#a9b4c0", "#5c6b7a"],
];
const KEPT = 3600;

const theme = {
  dark: () => document.documentElement.dataset.theme === "dark",
  set(dark) { document.documentElement.dataset.theme = dark ? "dark" : "light"; },
};
const prefers = matchMedia("(prefers-color-scheme: dark)");
const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
theme.set(stored ? stored === "dark" : prefers.matches);
prefers.addEventListener("change", () => { if (!stored) { theme.set(prefers.matches); redraw(true); } });

const tip = {
  show(event, text) {
    const box = $("tip");
    box.textContent = text;
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    box.style.left = `${Math.max(4, Math.min(innerWidth - width - 8, event.clientX + 14))}px`;
    box.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  },
  hide() { $("tip").hidden = true; },
};

const heap = new HeapMap($("tiles"), $("map-said"), tip);
const view = new ChunkView($("pages"), $("zoom-about"), tip);
const state = { figures: [], units: {}, times: [], rows: [], minutes: null, range: 300, second: null, open: null, gen: 0 };

// Numbers for people.
const count = (n) => n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : n >= 1e4 ? `${(n / 1e3).toFixed(1)} k` : String(Math.round(n));
const time = (ns) => {
  const [unit, name] = ns >= 1e9 ? [1e9, "s"] : ns >= 1e6 ? [1e6, "ms"] : ns >= 1e3 ? [1e3, "µs"] : [1, "ns"];
  return `${(ns / unit).toFixed(unit === 1 || ns / unit >= 10 ? 0 : 1)} ${name}`;
};
const ago = (s) => s >= 86400 ? `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h` : s >= 3600 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min` : s >= 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s} s`;

function note(text, bad = false) {
  const box = $("note");
  box.textContent = text;
  box.className = bad ? "bad" : "";
  box.hidden = !text;
}

// Data: rows of figures by second for the short ranges, columns by minute for the long one.
function column(name) {
  const at = state.figures.indexOf(name);
  if (state.range > KEPT) return (state.minutes && state.minutes.figures[name]) || [];
  const from = firstShown();
  const values = new Array(state.rows.length - from);
  for (let i = from; i < state.rows.length; i += 1) values[i - from] = state.rows[i][at] || 0;
  return values;
}

function firstShown() {
  const last = state.times[state.times.length - 1] || 0;
  let at = Math.max(0, state.times.length - state.range - 2);
  while (at < state.times.length && state.times[at] <= last - state.range) at += 1;
  return at;
}

function times() {
  if (state.range > KEPT) {
    if (!state.minutes) return [];
    return state.minutes.figures.rss.map((_, i) => state.minutes.start + i * state.minutes.step);
  }
  return state.times.slice(firstShown());
}

function stackGroups() {
  const parts = state.figures.filter((name) => name.startsWith("part_")).map((name) => name.slice(5));
  const known = new Set(STACK.flatMap(([, names]) => names));
  const rest = parts.filter((name) => !known.has(name));
  return STACK.map(([label, names], i) => [label, (i === STACK.length - 1 ? rest : names.filter((name) => parts.includes(name)))]);
}

// Charts.
const sync = uPlot.sync("time");
const charts = new Map();

/** Steps between lines of a chart of bytes. */
const BINARY = Array.from({ length: 46 }, (_, power) => 2 ** power);

/** Lines of a logarithmic chart: the powers of ten, not more than there is room for. */
function powers(_, axis, low, high) {
  const [from, to] = [Math.ceil(Math.log10(low)), Math.floor(Math.log10(high))];
  const step = Math.max(1, Math.ceil((to - from + 1) / 6));
  return Array.from({ length: Math.max(0, Math.floor((to - from) / step) + 1) }, (__, i) => 10 ** (from + i * step));
}

function colour(light, dark) { return theme.dark() ? dark : light; }

function build(id, series, show, legend, logarithmic = false) {
  const box = $(id);
  const style = getComputedStyle(document.documentElement);
  const [dim, grid] = ["--dim", "--grid"].map((name) => style.getPropertyValue(name).trim());
  const axis = { stroke: dim, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const options = {
    width: box.clientWidth, height: box.clientHeight,
    legend: { show: false },
    cursor: { sync: { key: sync.key }, points: { size: 6 }, drag: { x: false, y: false } },
    scales: { x: { time: true, range: (_, low, high) => state.range > KEPT ? [low, high] : [Math.max(high - state.range, Math.min(low, high - 60)), high] }, y: logarithmic ? { distr: 3 } : { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
    padding: [6, 28, 0, 0],
    axes: [{ ...axis, size: 30, space: 70, values: (u, ticks) => ticks.map((t) => new Date(t * 1000).toLocaleTimeString("en-GB", state.range > 300 ? { hour: "2-digit", minute: "2-digit" } : {})) },
      { ...axis, size: 74, space: 36, ...(show === bytes ? { incrs: BINARY } : {}), ...(logarithmic ? { splits: powers, filter: (u, splits) => splits } : {}), values: (u, ticks) => ticks.map((tick) => tick == null ? "" : show(tick)) }],
    series: [{}, ...series.map(({ stroke, fill, width }) => ({ stroke, fill, width: width ?? 1.6, points: { show: false } }))],
    hooks: { setCursor: [(u) => legend(u.cursor.idx)] },
  };
  const plot = new uPlot(options, [[]].concat(series.map(() => [])), box);
  const chart = { plot, series, legend, box };
  charts.set(id, chart);
  return chart;
}

function legendOf(id, series, show, valuesAt) {
  const box = $(id);
  box.replaceChildren(...series.map(({ label, stroke }) => {
    const item = document.createElement("span");
    const mark = document.createElement("i");
    mark.style.background = stroke;
    const value = document.createElement("b");
    item.append(mark, label, value);
    return item;
  }));
  return (idx) => {
    const values = valuesAt(idx);
    [...box.querySelectorAll("b")].forEach((cell, i) => { cell.textContent = values && values[i] != null ? show(values[i]) : ""; });
  };
}

function buildCharts() {
  for (const { plot } of charts.values()) plot.destroy();
  charts.clear();
  // The stack: each layer is the sum of those below, drawn from the top one down.
  const groups = stackGroups().map(([label], i) => ({ label, stroke: colour(STACK[i][2], STACK[i][3]) }));
  const layers = groups.map(({ stroke }) => ({ stroke, fill: stroke, width: 0.5 })).reverse();
  const parts = { values: [] };
  const pick = (data) => (idx) => {
    const length = data.values[0] ? data.values[0].length : 0;
    const at = idx == null || idx >= length ? length - 1 : idx;
    return length ? data.values.map((values) => values[at]) : null;
  };
  build("chart-memory", layers, bytes, legendOf("memory-legend", groups, bytes, pick(parts))).fill = () => {
    parts.values = stackGroups().map(([, names]) => {
      const columns = names.map((name) => column(`part_${name}`));
      return (times()).map((_, i) => columns.reduce((sum, values) => sum + values[i], 0));
    });
    let below = null;
    const sums = parts.values.map((values) => { below = values.map((v, i) => Math.max(0, v) + (below ? below[i] : 0)); return below; });
    return sums.reverse();
  };
  const simple = (id, legend, series, show, fill, logarithmic = false) => {
    const data = { values: [] };
    build(id, series, show, legendOf(legend, series, show, pick(data)), logarithmic).fill = () => { data.values = fill(); return data.values; };
  };
  const line = (label, light, dark, area) => ({ label, stroke: colour(light, dark), fill: area ? colour(`${light}22`, `${dark}2a`) : undefined });
  simple("chart-ratio", "legend-ratio", [line("resident / in use", "#c0562a", "#f59b52", true)], (v) => v.toFixed(2), () => {
    const used = column("used");
    // Of an empty server it says nothing, and all that follows would lie flat below it.
    return [column("rss").map((rss, i) => used[i] >= 2 ** 20 ? rss / used[i] : null)];
  });
  simple("chart-compaction", "legend-compaction", [line("moved /s", "#2f6fb3", "#5aa5ff", true), line("freed /s", "#14804a", "#4cc38a", true)], bytes, () => [column("compaction_moved"), column("compaction_freed")]);
  simple("chart-commands", "legend-commands", [line("commands /s", "#2f6fb3", "#5aa5ff", true), line("errors /s", "#c0392b", "#ff7b6b")], count, () => [column("commands"), column("errors")]);
  simple("chart-latency", "legend-latency", [line("half within", "#2a9d8f", "#3fbfae"), line("99%", "#c9820a", "#e9c257"), line("99.9%", "#c0392b", "#ff7b6b")], time, () => ["p50", "p99", "p999"].map((name) => column(name).map((v) => v || null)), true);
}

/** Draws everything anew. */
function redraw(rebuild = false) {
  if (document.hidden || !state.figures.length) return;
  drawSecond(rebuild);
  heap.draw();
  mapLegend();
}

/** Draws what changes each second. The heap map is drawn when tiles come. */
function drawSecond(rebuild = false) {
  if (rebuild || !charts.size) buildCharts();
  const x = times();
  for (const { plot, box, fill, legend } of charts.values()) {
    if (plot.width !== box.clientWidth) plot.setSize({ width: box.clientWidth, height: box.clientHeight });
    plot.setData([x, ...fill()]);
    legend(plot.cursor.idx);
  }
  view.draw();
}

function mapLegend() {
  const box = $("map-legend");
  const style = getComputedStyle(document.documentElement);
  const item = (fill, text) => {
    const span = document.createElement("span");
    const mark = document.createElement("i");
    mark.style.background = fill;
    span.append(mark, text);
    return span;
  };
  const items = [];
  if (heap.colour === "occupancy") {
    const span = document.createElement("span");
    const canvas = document.createElement("canvas");
    canvas.width = 170; canvas.height = 12;
    const ctx = canvas.getContext("2d");
    for (let x = 0; x < 170; x += 1) { ctx.fillStyle = ramp(x / 169); ctx.fillRect(x, 0, 1, 12); }
    span.append("sparse", canvas, "full");
    items.push(span);
  } else if (heap.colour === "class") {
    const slots = new Map();
    for (const { tile } of heap.cells) slots.set(tile.slot, (slots.get(tile.slot) || 0) + 1);
    const most = [...slots.entries()].filter(([slot]) => slot).sort((a, b) => b[1] - a[1]).slice(0, 14);
    for (const [slot] of most.sort((a, b) => a[0] - b[0])) items.push(item(classColour(slot), slot === LARGE ? "large objects" : bytes(slot, 0)));
  } else items.push(item(style.getPropertyValue("--accent"), "in use"));
  items.push(item(style.getPropertyValue("--dirty"), "free, not given back yet"), item(style.getPropertyValue("--empty"), "free, given back"));
  box.replaceChildren(...items);
}

function showNow() {
  const { second } = state;
  if (!second) return;
  const value = (name) => second.figures[state.figures.indexOf(name)] || 0;
  const put = (id, text, sub) => { $(`now-${id}`).textContent = text; $(`sub-${id}`).textContent = sub; };
  const [rss, used] = [value("rss"), value("used")];
  put("rss", bytes(rss), `${bytes(value("part_keys") + value("part_values"))} of it data`);
  put("used", bytes(used), value("keys") ? `${Math.round(used / value("keys"))} B per key` : "no keys");
  put("ratio", used ? (rss / used).toFixed(2) : "–", `${bytes(value("part_free_slots"))} free slots`);
  put("keys", count(value("keys")), value("volatile_keys") ? `${count(value("volatile_keys"))} expire` : "none expires");
  put("commands", `${count(value("commands"))}/s`, `${value("clients")} ${value("clients") === 1 ? "client" : "clients"}`);
  put("p99", value("p99") ? time(value("p99")) : "–", value("max") ? `longest ${time(value("max"))}` : "no commands");
  put("cpu", `${(value("cpu") / 1e4).toFixed(1)}%`, `compaction ${(value("compaction_cpu") / 1e4).toFixed(1)}%`);
  $("about").textContent = `${state.hello.port ? `port ${state.hello.port} · ` : ""}${state.hello.workers} ${state.hello.workers === 1 ? "worker" : "workers"} · up ${ago(second.uptime)} · version ${state.hello.version}`;
  $("map-about").textContent = `${heap.chunks.toLocaleString("en")} chunks of 2 MiB; click one to look into it`;
  const [, released, objects, moved, , slices, , longest] = second.compaction;
  $("ledger").textContent = `${count(objects)} objects (${bytes(moved)}) moved, ${count(released)} slabs emptied, ${count(slices)} slices, longest ${time(longest * 1e3)}`;
  for (const id of ["compact", "purge"]) $(id).disabled = second.acting;
}

function showClasses() {
  const rows = state.second.classes.map(([slot, slabs, live, free]) => {
    const row = document.createElement("tr");
    const cell = (text, name = "n") => { const td = document.createElement("td"); td.textContent = text; td.className = name; row.append(td); return td; };
    cell(`${slot.toLocaleString("en")} B`, "");
    cell(slabs.toLocaleString("en"));
    cell(live.toLocaleString("en"));
    cell(free.toLocaleString("en"));
    const share = live / Math.max(1, live + free);
    const bar = cell("", "");
    const outer = document.createElement("span");
    outer.className = "bar";
    const inner = document.createElement("i");
    inner.style.width = `${share * 100}%`;
    inner.style.background = ramp(share);
    outer.append(inner);
    bar.append(outer, `${(share * 100).toFixed(0)}%`);
    cell(bytes(free * slot));
    return row;
  });
  $("classes").replaceChildren(...rows);
}

// The server's events.
function listen() {
  const events = new EventSource("events");
  const status = (text, name) => { $("state").textContent = text; $("state").className = `state ${name}`; };
  events.addEventListener("hello", async (event) => {
    const hello = JSON.parse(event.data);
    state.hello = hello;
    state.figures = hello.figures.map(([name]) => name);
    state.gen += 1;
    $("actions").hidden = !hello.actions;
    heap.clear();
    status("live", "live");
    await loadSeconds(state.gen);
    redraw(true);
  });
  events.addEventListener("second", (event) => {
    state.second = JSON.parse(event.data);
    const last = state.times[state.times.length - 1] || 0;
    if (state.second.figures.length && state.second.t > last) {
      state.times.push(state.second.t);
      state.rows.push(state.second.figures);
      if (state.times.length > KEPT + 60) { state.times.splice(0, 60); state.rows.splice(0, 60); }
    }
    showNow();
    if (document.hidden) return;
    showClasses();
    drawSecond();
    if (state.open) loadChunk();
    document.documentElement.dataset.seconds = Number(document.documentElement.dataset.seconds || 0) + 1;
  });
  events.addEventListener("tiles", (event) => {
    heap.update(JSON.parse(event.data));
    if (document.hidden) return;
    heap.draw();
    heap.say();
    mapLegend();
  });
  events.addEventListener("error", () => status(events.readyState === EventSource.CLOSED ? "refused" : "connection lost", "lost"));
}

async function load(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  return response.ok ? response.json() : null;
}

/** The rows of the past for the range that is shown, before those that come as events. */
async function loadSeconds(gen) {
  const past = await load(`history?seconds=${Math.min(state.range, KEPT)}`);
  if (!past || gen !== state.gen) return;
  const columns = state.figures.map((name) => past.figures[name] || []);
  const times = columns[0].map((_, i) => past.start + i);
  const rows = times.map((_, i) => columns.map((values) => values[i]));
  const end = past.start + rows.length;
  const newer = state.times.findIndex((t) => t >= end);
  state.times = (newer < 0 ? times : times.concat(state.times.slice(newer))).slice(-KEPT);
  state.rows = (newer < 0 ? rows : rows.concat(state.rows.slice(newer))).slice(-KEPT);
}

async function loadChunk() {
  const { shard, chunk } = state.open;
  const data = await load(`chunk?shard=${shard}&chunk=${chunk}`);
  if (!state.open || state.open.shard !== shard || state.open.chunk !== chunk) return;
  $("zoom-title").textContent = `Shard ${shard}, chunk ${chunk}`;
  if (data) view.show(data);
  else $("zoom-about").textContent = "This chunk has been given back.";
}

// What people do.
heap.onOpen = (at) => {
  state.open = at;
  $("zoom").hidden = false;
  view.show(null);
  loadChunk().then(() => heap.draw());
};
$("zoom-close").addEventListener("click", () => {
  state.open = null;
  heap.selected = null;
  $("zoom").hidden = true;
  $("map-said").textContent = "";
  heap.draw();
  $("tiles").focus();
});
addEventListener("keydown", (event) => { if (event.key === "Escape" && state.open) $("zoom-close").click(); });
$("theme").addEventListener("click", () => {
  theme.set(!theme.dark());
  try { localStorage.setItem("theme", theme.dark() ? "dark" : "light"); } catch { /* It holds for this visit, then. */ }
  redraw(true);
});

function choice(id, apply) {
  const buttons = [...$(id).querySelectorAll("button")];
  const pick = (button) => {
    for (const other of buttons) {
      other.setAttribute("aria-checked", String(other === button));
      other.tabIndex = other === button ? 0 : -1;
    }
    apply(button.dataset.value);
  };
  buttons.forEach((button, at) => {
    button.tabIndex = button.getAttribute("aria-checked") === "true" ? 0 : -1;
    button.addEventListener("click", () => pick(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const next = buttons[(at + step + buttons.length) % buttons.length];
      next.focus();
      pick(next);
      event.preventDefault();
    });
  });
}
choice("colour", (value) => { heap.colour = value; view.colour = value; heap.draw(); view.draw(); mapLegend(); });
choice("range", async (value) => {
  state.range = Number(value);
  if (state.range > KEPT) await loadMinutes();
  else await loadSeconds(state.gen);
  redraw(true);
});
async function loadMinutes() { state.minutes = await load("history?minutes=1440"); }
setInterval(async () => { if (state.range > KEPT && !document.hidden) { await loadMinutes(); redraw(); } }, 60_000);

for (const action of ["purge", "compact"]) {
  $(action).addEventListener("click", async () => {
    $(action).disabled = true;
    try {
      const response = await fetch(action, { method: "POST", headers: { "x-slabkv-action": "1" } });
      if (!response.ok) return note(await response.text(), true);
      const done = await response.json();
      const gave = `${bytes(done.purged_bytes)} given back`;
      return note(action === "purge" ? `Purged: ${gave}.` : `Compacted: ${count(done.moved_objects)} objects (${bytes(done.moved_bytes)}) moved in ${time(done.us * 1e3)}, ${count(done.freed_pages)} pages freed, ${gave}.`);
    } catch {
      return note("The server did not answer.", true);
    } finally {
      $(action).disabled = false;
    }
  });
}
addEventListener("resize", () => redraw());
document.addEventListener("visibilitychange", () => { if (!document.hidden && state.second) { showClasses(); redraw(); } });
listen();
