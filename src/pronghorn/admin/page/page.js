// The status page while it is open: takes a view a second (server-sent events), writes it into the tables that the
// server has made, and draws the charts. Every text is set as text, never as markup. Law: nothing here decides what is
// well or not, or how a value is written in a table: the server has done both.
"use strict";

const SPAN = 300; // seconds that a chart shows
const STALE = 5000; // ms without a view, after which what stands there is called old
const REST = 3000; // ms until a stream that the server has refused is tried again
const THEMES = ["auto", "light", "dark"];
const stored = (store, key, value) => {
  try {
    if (value !== undefined) store.setItem(key, value);
    return store.getItem(key) || "";
  } catch {
    return ""; // storage is switched off
  }
};
const theme = (chosen) => {
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
};
theme(stored(localStorage, "pronghorn-theme"));

const find = (id) => document.getElementById(id);
const make = (name, classes = "", text = "") => {
  const node = document.createElement(name);
  if (classes) node.className = classes;
  if (text) node.textContent = text;
  return node;
};
const put = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

// Numbers, written short: 1,234  56.7k  1.2 MiB  3.4 ms
const scaled = (value, step, units) => {
  let power = 0;
  while (Math.abs(value) >= step * 0.9995 && power < units.length - 1) { value /= step; power += 1; }
  const digits = power === 0 ? (value < 10 && value % 1 ? 1 : 0) : value < 99.95 ? 1 : 0;
  return value.toFixed(digits) + units[power];
};
const WRITERS = {
  count: (value) => (value >= 1000 && value < 10000 ? Math.round(value).toLocaleString("en") : scaled(value, 1000, ["", "k", "M", "G", "T"])),
  bytes: (value) => scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]),
  percent: (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} %`,
  seconds: (value) => (value < 0.001 ? `${scaled(value * 1e6, 1e9, [" µs"])}` : value < 1 ? `${scaled(value * 1e3, 1e9, [" ms"])}` : `${scaled(value, 1e9, [" s"])}`),
};

// A chart: one figure of the page, with the names of its series in `data-series` ("x.*": all that begin with "x.").
const SVG = "http://www.w3.org/2000/svg";
class Chart {
  constructor(figure, history) {
    this.figure = figure;
    this.history = history;
    this.write = WRITERS[figure.dataset.unit];
    this.stacked = figure.dataset.kind === "stack";
    this.patterns = figure.dataset.series.split(" ");
    this.title = figure.querySelector("h2").textContent;
    this.svg = document.createElementNS(SVG, "svg");
    const facts = { role: "slider", tabindex: "0", "aria-label": `${this.title}, seconds ago`, "aria-valuemin": -SPAN, "aria-valuemax": 0, "aria-valuenow": 0 };
    for (const [name, value] of Object.entries(facts)) this.svg.setAttribute(name, value);
    this.legend = make("div", "legend");
    figure.append(this.svg, this.legend);
    this.cursor = null; // seconds ago
    this.nodes = new Map();
    this.listen();
  }

  listen() {
    const move = (event) => {
      const box = this.svg.getBoundingClientRect();
      this.point(Math.round((1 - (event.clientX - box.left) / box.width) * SPAN));
    };
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerdown", move);
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("blur", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30, Home: SPAN, End: -SPAN };
      if (event.key === "Escape") this.point(null);
      else if (event.key in steps) {
        this.point((this.cursor ?? 0) + steps[event.key]);
        event.preventDefault();
      }
    });
  }

  point(ago) {
    this.cursor = ago === null ? null : Math.max(0, Math.min(SPAN, ago));
    this.draw();
  }

  names() {
    return this.patterns.flatMap((each) =>
      each.endsWith("*") ? this.history.names().filter((name) => name.startsWith(each.slice(0, -1))) : [each]);
  }

  draw() {
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width || !height) return;
    const names = this.names().filter((name) => !this.stacked || this.history.column(name).some((value) => value));
    const columns = names.map((name) => this.history.column(name));
    const tops = this.stacked ? [columns.reduce((sums, column) => sums.map((sum, at) => sum + (column[at] ?? 0)), new Array(SPAN + 1).fill(0))] : columns;
    const most = nice(Math.max(0, ...tops.flat().filter((value) => value !== null)), this.figure.dataset.unit);
    const x = (at) => (at / SPAN) * width;
    const y = (value) => height - 14 - (value / most) * (height - 28);
    const used = new Set();
    const set = (key, name, facts, text) => {
      used.add(key);
      let node = this.nodes.get(key);
      if (!node) {
        node = document.createElementNS(SVG, name);
        this.nodes.set(key, node);
        this.svg.append(node);
      }
      for (const [fact, value] of Object.entries(facts)) if (node.getAttribute(fact) !== String(value)) node.setAttribute(fact, value);
      if (text !== undefined) put(node, text);
    };
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const share of [0, 0.5, 1]) set(`grid${share}`, "line", { class: "grid", x1: 0, x2: width, y1: y(share * most), y2: y(share * most) });
    let below = new Array(SPAN + 1).fill(0);
    columns.forEach((column, place) => {
      const colour = `p${colourOf(names[place], place)}`;
      if (this.stacked) {
        const above = below.map((sum, at) => sum + (column[at] ?? 0));
        set(`area ${names[place]}`, "path", { class: `area solid ${colour}`, d: band(above, below, x, y) });
        below = above;
      } else {
        if (place === 0) set("area", "path", { class: `area ${colour}`, d: band(column, below, x, y) });
        set(`curve ${names[place]}`, "path", { class: `curve ${colour}`, d: curve(column, x, y) });
      }
    });
    set("most", "text", { x: 0, y: 10 }, this.write(most));
    set("past", "text", { x: 0, y: height - 3 }, "5 min ago");
    set("now", "text", { x: width, y: height - 3, "text-anchor": "end" }, "now");
    if (this.cursor !== null) set("cursor", "line", { class: "cursor", x1: x(SPAN - this.cursor), x2: x(SPAN - this.cursor), y1: 0, y2: height - 14 });
    for (const [key, node] of this.nodes) if (!used.has(key)) { node.remove(); this.nodes.delete(key); }
    this.tell(names, columns);
  }

  tell(names, columns) {
    const ago = this.cursor ?? 0, at = SPAN - ago;
    const texts = columns.map((column) => (column[at] === null || column[at] === undefined ? "–" : this.write(column[at])));
    const sum = this.stacked ? this.write(columns.reduce((total, column) => total + (column[at] ?? 0), 0)) : texts.join(" / ");
    put(this.figure.querySelector(".now"), sum || "–");
    const when = ago ? `${ago} s ago` : "now";
    const alone = names.length === 1 && !this.stacked;
    put(this.figure.querySelector(".past"), this.cursor === null ? this.past(columns) : when);
    while (this.legend.children.length > names.length) this.legend.lastChild.remove();
    names.forEach((name, place) => {
      let item = this.legend.children[place];
      if (!item) {
        item = make("span");
        item.append(make("i"), make("b", "", " "));
        item.lastChild.style.fontWeight = "inherit";
        this.legend.append(item);
      }
      item.firstChild.className = `p${colourOf(name, place)}`;
      put(item.lastChild, alone ? "" : `${labelOf(name)} ${texts[place]}`);
      item.hidden = alone;
    });
    this.svg.setAttribute("aria-valuenow", -ago);
    this.svg.setAttribute("aria-valuetext", `${when}: ${names.map((name, place) => `${labelOf(name)} ${texts[place]}`).join(", ") || "none"}`);
  }

  past(columns) {
    if (this.stacked) return `${Math.round(columns.flat().reduce((sum, value) => sum + (value ?? 0), 0)).toLocaleString("en")} in 5 min`;
    const known = columns[columns.length - 1].filter((value) => value !== null && value !== undefined);
    return known.length ? `at most ${this.write(Math.max(...known))} in 5 min` : "";
  }
}

const FIXED = { done: 0, reset: 1, moved: 2, killed: 3, timeout: 4, handshake: 5, error: 6, aborted: 7, draining: 8 };
const colours = new Map();
const colourOf = (name, place) => {
  const [group, rest] = name.split(".");
  if (rest === undefined) return place;
  if (rest in FIXED) return FIXED[rest];
  if (!colours.has(name)) colours.set(name, [...colours.keys()].filter((each) => each.startsWith(`${group}.`)).length % 9);
  return colours.get(name);
};
const labelOf = (name) => name.split(".").pop().replaceAll("_", " ");
const nice = (value, unit) => {
  if (value <= 0) return unit === "seconds" ? 0.001 : unit === "bytes" ? 1024 : 1;
  const base = unit === "bytes" ? 2 ** Math.floor(Math.log2(value)) : 10 ** Math.floor(Math.log10(value));
  return [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((step) => step * base).find((each) => each >= value);
};
const curve = (column, x, y) => {
  let path = "", pen = false;
  column.forEach((value, at) => {
    if (value === null || value === undefined) { pen = false; return; }
    path += `${pen ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = true;
  });
  return path;
};
const band = (above, below, x, y) => {
  const known = above.map((value, at) => at).filter((at) => above[at] !== null && above[at] !== undefined);
  if (!known.length) return "";
  const up = known.map((at) => `${x(at).toFixed(1)} ${y(above[at]).toFixed(1)}`);
  const down = known.reverse().map((at) => `${x(at).toFixed(1)} ${y(below[at]).toFixed(1)}`);
  return `M${up.join("L")}L${down.join("L")}Z`;
};

// The last five minutes: for each series a value a second, the newest last; null where there was none.
class History {
  constructor() { this.columns = {}; }
  names() { return Object.keys(this.columns).sort(); }
  column(name) { return this.columns[name] ?? new Array(SPAN + 1).fill(null); }
  replace(columns) {
    this.columns = {};
    for (const [name, values] of Object.entries(columns)) this.columns[name] = new Array(SPAN + 1).fill(null).concat(values).slice(-SPAN - 1);
  }
  add(sample) {
    for (const name of Object.keys(sample)) if (!this.columns[name]) this.columns[name] = new Array(SPAN + 1).fill(null);
    for (const [name, column] of Object.entries(this.columns)) { column.push(sample[name] ?? null); column.shift(); }
  }
}

// Tables: rows by their keys; a cell is a text, or a text and its tone.
const fill = (table, rows, end) => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  rows.forEach(({ key, cells, ends }, place) => {
    let row = known.get(key);
    known.delete(key);
    if (!row) {
      row = make("tr", table.dataset.filled ? "new" : "");
      row.dataset.key = key;
      cells.forEach((cell, at) => {
        const node = make(at === 0 ? "th" : "td");
        if (at === 0) node.scope = "row";
        row.append(node);
      });
    }
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
    cells.forEach((cell, at) => {
      const [text, tone] = typeof cell === "string" ? [cell, ""] : cell;
      const classes = `${heads[at].className} ${tone}`.trim(), node = row.cells[at];
      if (node.className !== classes) node.className = classes;
      put(node, text);
    });
    if (end) end(row, ends, cells.length);
  });
  for (const row of known.values()) row.remove();
  table.dataset.filled = "yes";
  const nothing = table.parentNode.nextElementSibling;
  table.hidden = rows.length === 0;
  if (nothing) nothing.hidden = rows.length > 0;
};

class Page {
  constructor() {
    this.history = new History();
    this.charts = [...document.querySelectorAll("figure.chart")].map((each) => new Chart(each, this.history));
    this.heard = Date.now();
    this.control = find("change") ? new Control(find("change")) : null;
    const themes = find("theme");
    themes.value = THEMES.includes(stored(localStorage, "pronghorn-theme")) ? stored(localStorage, "pronghorn-theme") : "auto";
    themes.addEventListener("change", () => { theme(themes.value); stored(localStorage, "pronghorn-theme", themes.value); });
    themes.parentNode.hidden = false;
    for (const each of document.querySelectorAll(".tabs input")) each.addEventListener("change", () => this.choose());
    this.choose();
    addEventListener("resize", () => this.draw());
    document.addEventListener("visibilitychange", () => this.appear());
    setInterval(() => this.look(), 1000);
    this.open();
  }

  choose() {
    for (const each of document.querySelectorAll(".tabs label")) each.hidden = false;
    for (const each of document.querySelectorAll("h3")) each.hidden = true;
    for (const each of document.querySelectorAll(".tabs input")) find(each.value).hidden = !each.checked;
  }

  open() {
    if (this.stream) return;
    this.stream = new EventSource("events");
    this.stream.addEventListener("history", (event) => { this.history.replace(JSON.parse(event.data)); this.draw(); });
    this.stream.addEventListener("view", (event) => this.show(JSON.parse(event.data)));
    this.stream.addEventListener("error", () => {
      if (this.stream && this.stream.readyState === EventSource.CLOSED) { // refused: the browser does not try again
        this.close();
        setTimeout(() => this.open(), REST);
      }
    });
  }

  appear() { // a hidden tab goes on, for its title; but a browser may have put it to sleep
    if (document.hidden) return;
    if (Date.now() - this.heard > STALE) { this.close(); this.open(); }
    this.draw();
  }

  close() {
    if (this.stream) this.stream.close();
    this.stream = null;
  }

  show(view) {
    if (view.build !== document.body.dataset.build) return location.reload(); // the server was upgraded
    this.heard = Date.now();
    this.look();
    const head = document.querySelector("header");
    head.dataset.level = view.level;
    put(find("verdict"), view.verdict);
    const problems = find("problems");
    if (JSON.stringify(view.problems) !== this.problems) {
      this.problems = JSON.stringify(view.problems);
      problems.replaceChildren(...view.problems.map(({ level, text }) => {
        const item = make("li", "", text);
        item.dataset.level = level;
        return item;
      }));
    }
    put(find("about"), view.about);
    document.title = view.title;
    this.announce(view.level, view.verdict);
    const icon = document.querySelector("link[rel=icon]"), wanted = `icon-${view.level}.svg`;
    if (icon.getAttribute("href") !== wanted) icon.setAttribute("href", wanted);
    for (const [name, rows] of Object.entries(view.tables)) {
      const table = find(name);
      if (table) fill(table, rows, this.control && table.dataset.ends ? this.control.end : null);
    }
    this.history.add(view.sample);
    if (this.control) this.control.update(view);
    this.draw();
  }

  announce(level, verdict) { // for a screen reader: when something else is said, not when a number has changed
    const gist = level + verdict.replaceAll(/[\d.,]+/g, "");
    if (gist !== this.gist) put(find("news"), verdict);
    this.gist = gist;
  }

  draw() {
    if (document.hidden) return;
    for (const each of this.charts) each.draw();
  }

  look() {
    const live = find("live"), age = Date.now() - this.heard, lost = age > STALE;
    live.className = lost ? "lost" : "on";
    put(live, lost ? `No news for ${Math.round(age / 1000)} s: what you see is old` : "live");
    if (lost) {
      document.querySelector("header").dataset.level = "bad";
      put(find("verdict"), "The status page has no news: the server, its admin process or the way there is down");
      document.title = `NO NEWS · ${document.body.dataset.name}`;
      this.announce("lost", find("verdict").textContent);
    }
  }
}

// What --admin-write allows: each button asks first; the token stays in this tab (sessionStorage) and goes in a header.
class Control {
  constructor(section) {
    this.section = section;
    this.end = (row, ends, place) => {
      let cell = row.cells[place];
      if (!cell) {
        cell = make("td");
        row.append(cell);
        const button = make("button", "", "End");
        button.type = "button";
        button.addEventListener("click", () => this.ask("end", { connection: row.dataset.ends }));
        cell.append(button);
      }
      row.dataset.ends = ends;
      cell.firstChild.setAttribute("aria-label", `End connection ${ends}`);
      cell.firstChild.disabled = !this.token;
    };
    this.token = stored(sessionStorage, "pronghorn-token");
    find("unlock").addEventListener("submit", (event) => { event.preventDefault(); this.unlock(); });
    find("count").addEventListener("input", () => { this.touched = true; });
    find("lock").addEventListener("click", () => this.keep(""));
    for (const each of section.querySelectorAll("[data-action]")) {
      each.addEventListener("click", () => this.ask(each.dataset.action, each.dataset.action === "resize" ? { count: Number(find("count").value) } : {}));
    }
    section.hidden = false;
    this.keep(this.token);
  }

  update(view) {
    if (!this.touched) find("count").value = view.workers || 1;
  }

  keep(token) {
    this.token = token;
    stored(sessionStorage, "pronghorn-token", token);
    find("unlock").hidden = Boolean(token);
    find("allowed").hidden = !token;
    for (const each of document.querySelectorAll("table[data-ends] button")) each.disabled = !token;
  }

  say(text, tone = "") {
    const answer = find("answer");
    answer.className = tone;
    put(answer, text);
  }

  async unlock() {
    const token = find("token").value.trim();
    find("token").value = "";
    const answer = await this.post("check", {}, token);
    if (answer.ok) { this.keep(token); this.say("The token is right."); find("allowed").querySelector("button").focus(); }
  }

  ask(action, arguments_) {
    const dialog = find("question"), words = QUESTIONS[action](arguments_);
    put(dialog.querySelector("h2"), words[0]);
    put(dialog.querySelector("p"), words[1]);
    put(find("yes"), words[2]);
    dialog.returnValue = "";
    dialog.onclose = () => { if (dialog.returnValue === "yes") this.act(action, arguments_); };
    dialog.showModal();
  }

  async act(action, arguments_) {
    this.say("Asked; waiting for the answer …");
    const answer = await this.post(action, arguments_, this.token);
    if (answer.ok) this.say(answer.said);
  }

  async post(action, arguments_, token) {
    let answer;
    try {
      const body = JSON.stringify({ action, ...arguments_ });
      const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
      const response = await fetch("actions", { method: "POST", headers, body, credentials: "omit", cache: "no-store" });
      answer = await response.json();
      if (response.status === 401) this.keep("");
    } catch {
      answer = { ok: false, said: "No answer came." };
    }
    if (!answer.ok) this.say(answer.said, "bad");
    return answer;
  }
}
const QUESTIONS = {
  drain: () => ["Drain the server?", "No worker accepts from then on, and each ends once its conversations are over. New clients wait until there are workers again (Reload, or Resize).", "Drain"],
  reload: () => ["Reload the server?", "New workers start with the settings and the code of now. If that fails, nothing changes.", "Reload"],
  resize: ({ count }) => [`Resize to ${count} worker${count === 1 ? "" : "s"}?`, "Workers that are too many leave once their conversations are over.", "Resize"],
  end: ({ connection }) => [`End connection ${connection}?`, "It is cut at once; its client sees an end or a reset.", "End it"],
};

document.addEventListener("DOMContentLoaded", () => new Page());
