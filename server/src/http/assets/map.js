"use strict";
// The heap map: chunks as tiles, and one chunk's pages. Draws on canvases; knows nothing of where data comes from.

const PAGE_BYTES = 4096;
const CHUNK_PAGES = 512;
const LARGE = 1;

/** Bytes for people. */
function bytes(n, digits = 1) {
  const sign = n < 0 ? "−" : "";
  n = Math.abs(n);
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit + 1 < units.length) { n /= 1024; unit += 1; }
  return sign + (unit === 0 ? n.toFixed(0) : n.toFixed(n >= 100 ? 0 : digits)) + " " + units[unit];
}

/** From sparse (orange) to full (blue). */
const RAMP = [[224, 90, 20], [240, 150, 40], [232, 205, 110], [110, 185, 165], [52, 140, 190], [32, 96, 168]];

const SHADES = Array.from({ length: 201 }, (_, share) => {
  const at = share / 200 * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const mix = RAMP[low].map((from, i) => Math.round(from + (RAMP[low + 1][i] - from) * (at - low)));
  return `rgb(${mix})`;
});

function ramp(share) { return SHADES[Math.round(Math.max(0, Math.min(1, share)) * 200)]; }

/** One colour per size class, far from its neighbours'. */
const CLASS_COLOURS = new Map([[LARGE, "hsl(265 45% 60%)"]]);

function classColour(slot) {
  if (!CLASS_COLOURS.has(slot)) {
    const place = Math.round(Math.log2(Math.max(slot, 8)) * 8);
    CLASS_COLOURS.set(slot, `hsl(${(place * 137.5) % 360} ${52 + (place % 3) * 10}% ${50 + (place % 2) * 9}%)`);
  }
  return CLASS_COLOURS.get(slot);
}

function className(slot) {
  if (slot === 0) return "no objects";
  return slot === LARGE ? "large objects" : `slots of ${slot} bytes`;
}

class HeapMap {
  constructor(canvas, said, tip) {
    this.canvas = canvas;
    this.said = said;
    this.tip = tip;
    this.shards = new Map();
    this.colour = "occupancy";
    this.cells = [];
    this.selected = null;
    this.onOpen = () => {};
    canvas.addEventListener("mousemove", (event) => this.hover(event));
    canvas.addEventListener("mouseleave", () => this.tip.hide());
    canvas.addEventListener("click", (event) => {
      const cell = this.cellAt(event);
      if (cell) this.select(cell, true);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  clear() { this.shards.clear(); }

  get chunks() {
    let sum = 0;
    for (const tiles of this.shards.values()) sum += tiles.size;
    return sum;
  }

  /** Takes tiles as the server sends them: `[[shard, base64], ...]`. */
  update(changed) {
    for (const [shard, text] of changed) {
      if (!this.shards.has(shard)) this.shards.set(shard, new Map());
      const tiles = this.shards.get(shard);
      const raw = atob(text);
      const byte = (at) => raw.charCodeAt(at);
      for (let at = 0; at + 8 <= raw.length; at += 8) {
        const chunk = byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16;
        const tile = { slot: byte(at + 3) | byte(at + 4) << 8, live: byte(at + 5) / 255, used: byte(at + 6) / 255, dirty: byte(at + 7) / 255 };
        if (tile.used === 0 && tile.dirty === 0 && tile.slot === 0) tiles.delete(chunk);
        else tiles.set(chunk, tile);
      }
    }
  }

  /** Has the chosen tile's description read out, if it is another one. */
  say() {
    const selected = this.find();
    const said = selected && this.describe(selected);
    if (said && said !== this.said.textContent) this.said.textContent = said;
  }

  fill(tile) {
    if (this.colour === "class") return tile.slot ? classColour(tile.slot) : this.css.empty;
    if (this.colour === "state") return this.css.used;
    return ramp(tile.used > 0 ? tile.live / tile.used : 0);
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const name = (variable) => style.getPropertyValue(variable).trim();
    this.css = { empty: name("--empty"), dirty: name("--dirty"), used: name("--accent"), dim: name("--dim"), ink: name("--ink") };
    const width = this.canvas.parentElement.clientWidth;
    if (!width) return;
    const shards = [...this.shards.entries()].filter(([, tiles]) => tiles.size).sort((a, b) => a[0] - b[0]);
    const label = shards.length > 1 ? 18 : 0;
    const height = (size) => shards.reduce((sum, [, tiles]) => sum + label + Math.ceil(tiles.size / Math.max(1, Math.floor(width / size))) * size + (label ? 6 : 0), 0);
    let size = 30;
    while (size > 3 && height(size) > 380) size -= 1;
    const gap = size > 10 ? 3 : size > 5 ? 1 : 0;
    const columns = Math.max(1, Math.floor(width / size));
    const total = Math.max(height(size), 60);
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(total * scale);
    this.canvas.style.height = `${total}px`;
    const ctx = this.canvas.getContext("2d");
    ctx.scale(scale, scale);
    ctx.font = "12px system-ui, sans-serif";
    this.cells = [];
    this.rows = [];
    let y = 0;
    for (const [shard, tiles] of shards) {
      if (label) {
        ctx.fillStyle = this.css.dim;
        ctx.fillText(`shard ${shard} · ${tiles.size} chunks`, 0, y + 12);
        y += label;
      }
      [...tiles.keys()].sort((a, b) => a - b).forEach((chunk, place) => {
        const cell = { shard, chunk, tile: tiles.get(chunk), x: (place % columns) * size, y: y + Math.floor(place / columns) * size, size: size - gap };
        this.cells.push(cell);
        this.drawTile(ctx, cell);
      });
      y += Math.ceil(tiles.size / columns) * size + (label ? 6 : 0);
    }
    this.columns = columns;
    if (!this.cells.length) {
      ctx.fillStyle = this.css.dim;
      ctx.fillText("Nothing is stored yet.", 0, 24);
    }
    const selected = this.find();
    if (selected) {
      ctx.strokeStyle = this.css.ink;
      ctx.lineWidth = 2;
      ctx.strokeRect(selected.x - 1, selected.y - 1, selected.size + 2, selected.size + 2);
    }
  }

  drawTile(ctx, { tile, x, y, size }) {
    // Up to where the chunk is in use, then what is free and not given back, then the rest.
    const used = tile.used > 0 ? Math.max(1, Math.round(size * tile.used)) : 0;
    const dirty = tile.dirty > 0.01 ? Math.max(1, Math.round(size * tile.dirty)) : 0;
    const free = Math.min(dirty, size - used);
    const fill = (colour, from, height) => {
      if (height <= 0) return;
      ctx.fillStyle = colour;
      ctx.fillRect(x, y + size - from - height, size, height);
    };
    fill(this.fill(tile), 0, used);
    fill(this.css.dirty, used, free);
    fill(this.css.empty, used + free, size - used - free);
  }

  find() {
    const at = this.selected;
    return at && this.cells.find((cell) => cell.shard === at.shard && cell.chunk === at.chunk);
  }

  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    return this.cells.find((cell) => x >= cell.x && x < cell.x + cell.size + 3 && y >= cell.y && y < cell.y + cell.size + 3);
  }

  describe({ shard, chunk, tile }) {
    const pages = (share) => bytes(share * CHUNK_PAGES * PAGE_BYTES);
    const fullness = tile.used > 0 ? `${Math.round(100 * Math.min(1, tile.live / tile.used))}% of it live` : "empty";
    const dirty = tile.dirty > 0 ? `, ${pages(tile.dirty)} free and dirty` : "";
    return `Shard ${shard}, chunk ${chunk}: ${pages(tile.used)} in use, ${fullness}${dirty}; mostly ${className(tile.slot)}.`;
  }

  hover(event) {
    const cell = this.cellAt(event);
    if (cell) this.tip.show(event, this.describe(cell));
    else this.tip.hide();
  }

  select(cell, open) {
    this.selected = { shard: cell.shard, chunk: cell.chunk };
    this.said.textContent = this.describe(cell);
    this.draw();
    if (open) this.onOpen(this.selected);
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" || event.key === " ") {
      const cell = this.find();
      if (cell) this.select(cell, true);
    } else if (event.key in steps && this.cells.length) {
      const now = this.cells.indexOf(this.find());
      const to = now < 0 ? 0 : Math.max(0, Math.min(this.cells.length - 1, now + steps[event.key]));
      this.select(this.cells[to], false);
    } else {
      return;
    }
    event.preventDefault();
  }
}

/** One chunk: 512 pages in rows, slabs as runs of pages. */
class ChunkView {
  constructor(canvas, about, tip) {
    this.canvas = canvas;
    this.about = about;
    this.tip = tip;
    this.colour = "occupancy";
    this.data = null;
    this.seen = new Map();
    canvas.addEventListener("mousemove", (event) => this.hover(event));
    canvas.addEventListener("mouseleave", () => this.tip.hide());
  }

  show(data) {
    const same = this.data && data && this.data.shard === data.shard && this.data.chunk === data.chunk;
    if (!same) this.seen.clear();
    this.data = data;
    if (!data) return;
    const now = Date.now();
    this.at = new Array(CHUNK_PAGES).fill(null);
    const sums = { slabs: 0, live: 0, slots: 0, dirty: 0, purged: 0, large: 0, liveBytes: 0 };
    for (const [kind, first, pages, slot, slots, live, punched] of data.extents) {
      const extent = { kind, first, pages, slot, slots, live, punched };
      if (kind === 3) {
        sums.slabs += 1; sums.live += live; sums.slots += slots; sums.liveBytes += live * slot;
        // How long a slab has stayed as it is, as far as this page has seen it.
        const before = this.seen.get(first);
        extent.since = before && before.slot === slot && before.live === live ? before.since : now;
        extent.isOld = Boolean(before && before.slot === slot);
        this.seen.set(first, { slot, live, since: extent.since });
      } else if (kind === 2) sums.large += pages;
      else if (kind === 1) sums.dirty += pages;
      else sums.purged += pages;
      for (let page = first; page < first + pages && page < CHUNK_PAGES; page += 1) this.at[page] = extent;
    }
    const parts = [`${sums.slabs} slabs, ${sums.live.toLocaleString("en")} of ${sums.slots.toLocaleString("en")} slots in use (${bytes(sums.liveBytes)})`];
    if (sums.large) parts.push(`${bytes(sums.large * PAGE_BYTES)} of large objects`);
    if (sums.dirty) parts.push(`${bytes(sums.dirty * PAGE_BYTES)} dirty`);
    if (sums.purged) parts.push(`${bytes(sums.purged * PAGE_BYTES)} given back`);
    this.about.textContent = parts.join(", ") + ".";
    this.draw();
  }

  draw() {
    if (!this.data) return;
    const style = getComputedStyle(document.documentElement);
    const name = (variable) => style.getPropertyValue(variable).trim();
    const width = this.canvas.parentElement.clientWidth - parseFloat(getComputedStyle(this.canvas.parentElement).paddingLeft);
    const columns = 32;
    const size = width / columns;
    const height = size * (CHUNK_PAGES / columns);
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.canvas.style.height = `${height}px`;
    this.size = size;
    const ctx = this.canvas.getContext("2d");
    ctx.scale(scale, scale);
    for (let page = 0; page < CHUNK_PAGES; page += 1) {
      const extent = this.at[page];
      const [x, y] = [(page % columns) * size, Math.floor(page / columns) * size];
      const first = !extent || extent.first === page;
      const last = !extent || extent.first + extent.pages - 1 === page;
      const [left, right] = [first ? 1 : 0, last ? 1 : 0];
      ctx.fillStyle = this.fill(extent, page, name);
      ctx.fillRect(x + left, y + 1, size - left - right + (right ? 0 : 0.5), size - 2);
    }
  }

  fill(extent, page, name) {
    if (!extent || extent.kind === 0) return name("--empty");
    if (extent.kind === 1) return name("--dirty");
    if (extent.kind === 3 && Math.floor(extent.punched / 2 ** (page - extent.first)) % 2) return name("--empty");
    if (this.colour === "state") return name("--accent");
    if (extent.kind === 2) return this.colour === "class" ? classColour(LARGE) : ramp(1);
    return this.colour === "class" ? classColour(extent.slot) : ramp(extent.live / extent.slots);
  }

  hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const page = Math.floor((event.clientY - box.top) / this.size) * 32 + Math.floor((event.clientX - box.left) / this.size);
    const extent = this.at && this.at[page];
    if (!extent) return this.tip.hide();
    const last = extent.first + extent.pages - 1;
    const where = extent.pages > 1 ? `pages ${extent.first} to ${last}, ${bytes(extent.pages * PAGE_BYTES)}` : `page ${extent.first}`;
    const texts = ["Free, given back to the system", "Free, not given back yet", "Large object"];
    let text = texts[extent.kind];
    if (extent.kind === 3) {
      text = `Slab of ${extent.slot}-byte slots\n${extent.live} of ${extent.slots} in use (${Math.round(100 * extent.live / extent.slots)}%)`;
      const age = Math.round((Date.now() - extent.since) / 1000);
      if (extent.isOld && age > 0) text += `\nunchanged for ${age} s`;
      if (extent.punched) text += "\nsome of its pages are given back";
    }
    return this.tip.show(event, `${text}\n${where}`);
  }
}
