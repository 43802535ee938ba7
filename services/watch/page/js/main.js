// The page: header, tabs, which runs are shown, and what the service tells as it happens.

import { address, follow, get, offline } from "./api.js";
import { Curves } from "./curves.js";
import { announce, h, put, s } from "./dom.js";
import { Faults } from "./faults.js";
import { Now } from "./now.js";
import { Rollouts } from "./rollouts.js";
import { read, setTheme, startTheme, theme, write } from "./state.js";

const MAX_SHOWN = 8;

class Page {
  constructor() {
    this.tabs = [["now", "Now", new Now()], ["curves", "Curves", new Curves()], ["rollouts", "Rollouts", new Rollouts()], ["faults", "Queues and faults", new Faults()]];
    this.runs = [];
    this.shown = [];
    this.latest = new Map();
    this.dot = h("span", { class: "dot" });
    this.link = h("span", { class: "muted link", role: "status" }, "");
    this.picker = h("div", {});
    this.pickerName = h("span", {}, "runs");
    this.reports = h("div", {});
    this.empty = h("p", { hidden: true });
  }

  async start() {
    startTheme();
    const summary = document.getElementById("summary");
    if (summary) this.tabs.unshift(["summary", "Summary", { element: summary, setRuns() {}, heard() {} }]);
    this.build();
    const found = await get("runs");
    this.heardRuns(found);
    const asked = read();
    const known = new Set(this.runs.map((run) => run.name));
    const chosen = asked.runs.filter((run) => known.has(run));
    this.show((chosen.length ? chosen : found.first).slice(0, MAX_SHOWN));
    this.open(this.tabs.some(([id]) => id === asked.tab) && (location.hash || !summary) ? asked.tab : this.tabs[0][0]);
    document.addEventListener("visibilitychange", () => offline || this.connect());
    addEventListener("hashchange", () => this.moved());
  }

  build() {
    const tab = ([id, name]) => h("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, onclick: () => this.open(id), onkeydown: (e) => this.arrow(e, id) }, name);
    const themeButton = h("button", { type: "button", "aria-label": "Dark / light", title: "Dark / light", onclick: () => setTheme(theme() === "dark" ? "light" : "dark") }, "◐");
    const menu = h("details", { class: "menu" }, h("summary", {}, this.pickerName), this.picker);
    const report = offline ? null : h("details", { class: "menu right" }, h("summary", {}, "Export"), this.reports);
    addEventListener("click", (e) => document.querySelectorAll("details.menu[open]").forEach((one) => one.contains(e.target) || one.removeAttribute("open")));
    addEventListener("keydown", (e) => e.key === "Escape" && document.querySelectorAll("details.menu[open]").forEach((one) => one.removeAttribute("open")));
    put(document.getElementById("top"), h("div", { class: "bar" },
      h("span", { class: "brand" }, s("svg", { viewBox: "0 0 32 32", "aria-hidden": "true" }, s("rect", { width: 32, height: 32, rx: 7, fill: "#1f5fa8" }), s("path", { d: "M5 23 12 14l5 5 10-12", fill: "none", stroke: "#fff", "stroke-width": 3.5 })), h("h1", { class: "visually-hidden" }, "rgopd watch"), h("span", { "aria-hidden": "true" }, "rgopd")),
      menu, h("div", { role: "tablist", "aria-label": "Views" }, this.tabs.map(tab)), h("span", { class: "grow" }), this.dot, this.link, report, themeButton));
    put(document.getElementById("content"), this.empty, this.tabs.map(([id, name, view]) => h("div", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, hidden: true }, h("h2", { class: "visually-hidden" }, name), view.element)));
  }

  open(id) {
    this.current = id;
    for (const [other, , view] of this.tabs) {
      const mine = other === id, button = document.getElementById(`tab-${other}`);
      button.setAttribute("aria-selected", String(mine));
      button.tabIndex = mine ? 0 : -1;
      document.getElementById(`panel-${other}`).hidden = !mine;
      if (!mine) view.stop?.();
    }
    write({ tab: id, runs: this.shown });
    const view = this.view();
    view.start?.();
    if (view.runsShown !== this.shown) {
      view.runsShown = this.shown;
      view.setRuns(this.shown);
    }
    for (const now of this.latest.values()) if (now.state && now.figures) view.heard(now);
  }

  view() {
    return this.tabs.find(([id]) => id === this.current)[2];
  }

  arrow(event, id) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    const ids = this.tabs.map(([one]) => one);
    const next = ids[(ids.indexOf(id) + move + ids.length) % ids.length];
    this.open(next);
    document.getElementById(`tab-${next}`).focus();
  }

  /** Which runs are looked at, everywhere on the page. */
  show(runs) {
    this.shown = runs;
    for (const run of [...this.latest.keys()]) if (!runs.includes(run)) this.latest.delete(run);
    this.pickerName.textContent = runs.length === 1 ? runs[0] : `${runs.length} runs`;
    document.title = (runs.length === 1 ? runs[0] + " · " : "") + "rgopd watch";
    put(this.reports, runs.map((run) => [h("a", { class: "button", href: address("report", { run }) }, `Report of ${run} (one HTML file)`), h("a", { class: "button", href: address("csv", { run }) }, `All steps of ${run} (CSV)`)]));
    this.list();
    if (this.current) this.open(this.current);
    if (offline) for (const run of runs) get("now", { run }).then((now) => this.heard("now", now));
    this.connect();
  }

  /** A page that nobody sees lets go: a browser has six connections to a host, and a phone has a battery. */
  connect() {
    this.stop?.();
    this.stop = document.hidden ? null : follow(this.shown, (kind, data) => this.heard(kind, data), (state) => this.linked(state));
    if (document.hidden) this.linked("hidden");
  }

  heard(kind, data) {
    if (kind === "runs") return this.heardRuns(data);
    if (!this.shown.includes(data.run)) return undefined;
    const known = { ...this.latest.get(data.run), ...data }; // two parts: what changes with a step, and within one
    this.latest.set(data.run, known);
    if (!this.current || !known.state || !known.figures) return undefined;
    this.view().heard(known);
    return this.current === "now" ? undefined : this.tabs.find(([id]) => id === "now")[2].heard(known);
  }

  heardRuns(data) {
    const names = JSON.stringify(data.runs.map((run) => run.name));
    if (names === this.names) return;
    const before = this.names;
    this.names = names;
    this.runs = data.runs;
    this.list();
    if (before && !this.shown.length && data.first.length) this.show(data.first.slice(0, MAX_SHOWN));
    else if (before) announce("the list of runs changed");
    this.empty.hidden = this.runs.length > 0;
    put(this.empty, `No run yet below ${data.places.join(", ")}. It appears here as soon as one starts.`);
  }

  list() {
    const box = (run) => h("label", {}, h("input", { type: "checkbox", checked: this.shown.includes(run.name), onchange: (e) => this.toggle(run.name, e.target.checked) }), run.name);
    put(this.picker, this.runs.map(box));
  }

  toggle(name, on) {
    const next = on ? [...this.shown, name] : this.shown.filter((run) => run !== name);
    if (next.length > MAX_SHOWN) announce(`at most ${MAX_SHOWN} runs are shown together`);
    this.show(next.slice(0, MAX_SHOWN));
  }

  moved() {
    const asked = read();
    const known = new Set(this.runs.map((run) => run.name));
    const runs = asked.runs.filter((run) => known.has(run));
    if (runs.length && JSON.stringify(runs) !== JSON.stringify(this.shown)) this.show(runs);
    if (asked.tab !== this.current && this.tabs.some(([id]) => id === asked.tab)) this.open(asked.tab);
  }

  linked(state) {
    this.dot.className = `dot ${state === "live" ? "live" : state === "lost" ? "lost" : ""}`;
    this.link.textContent = { live: "live", lost: "connection lost, trying again", offline: "exported", hidden: "asleep" }[state];
  }
}

new Page().start().catch((error) => put(document.getElementById("content"), h("p", { class: "bad" }, `The page could not start: ${error.message}`)));
