// The tab Curves: what is in sight is drawn, the rest waits.

import { get, address, offline } from "./api.js";
import { Chart } from "./chart.js";
import { CURVES, others } from "./curve_list.js";
import { h, announce } from "./dom.js";
import { saveCsv, savePng, saveSvg } from "./picture.js";
import { Series } from "./series.js";
import { onTheme, theme } from "./state.js";

const WIDTHS = [1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 200, 400, 800];

export class Curves {
  constructor() {
    this.options = { width: 1, log: false, zoom: null, theme: theme() };
    this.runs = [];
    this.series = new Map();
    this.evaluations = new Map();
    this.charts = [];
    this.visible = new Set();
    this.seen = new IntersectionObserver((entries) => this.sighted(entries), { rootMargin: "300px" });
    this.rangeNote = h("span", { class: "muted" });
    const step = (name) => h("input", { type: "number", min: "0", "aria-label": name, class: "step", onchange: () => this.typed() });
    this.from = step("From step");
    this.to = step("To step");
    this.all = h("button", { type: "button", onclick: () => this.zoom(null), disabled: true }, "All steps");
    this.smoothNote = h("output", {}, "off");
    this.body = h("div", {});
    this.element = h("div", {}, this.tools(), this.body);
    onTheme((name) => {
      this.options.theme = name;
      this.drawAll();
    });
  }

  tools() {
    const slider = h("input", { type: "range", min: "0", max: String(WIDTHS.length - 1), value: "0", step: "1", "aria-label": "Smoothing", oninput: (e) => this.smooth(WIDTHS[e.target.value]) });
    const log = h("input", { type: "checkbox", onchange: (e) => this.set({ log: e.target.checked }) });
    const filter = h("input", { type: "search", placeholder: "Find a curve", "aria-label": "Find a curve", oninput: (e) => this.filter(e.target.value) });
    return h("div", { class: "tools" }, filter, h("label", {}, "Smoothing", slider, this.smoothNote), h("label", {}, log, "Log axis"),
      h("span", {}, "Steps ", this.from, " to ", this.to), h("button", { type: "button", onclick: () => this.lastPart(0.25) }, "Last quarter"), this.all, this.rangeNote);
  }

  /** Show these runs; live ones are refreshed by `heard`. */
  async setRuns(runs) {
    this.runs = runs;
    for (const run of runs) if (!this.series.has(run)) this.series.set(run, new Series(run));
    for (const run of [...this.series.keys()]) if (!runs.includes(run)) this.series.delete(run);
    const names = new Set();
    for (const found of await Promise.all(runs.map((run) => get("names", { run }).catch(() => ({ step: [], clock: [] }))))) {
      for (const name of found.step) names.add(name);
      for (const name of found.clock) names.add("clock/" + name);
    }
    const list = JSON.stringify([...names].sort());
    if (list !== this.list) this.build(names);
    this.list = list;
    for (const series of this.series.values()) {
      series.setZoom(this.options.zoom);
      series.want(this.wantedNames());
    }
    await this.refresh();
  }

  build(names) {
    for (const one of this.charts) one.chart.destroy();
    this.seen.disconnect();
    this.visible.clear();
    this.charts = [];
    const groups = [...CURVES, ["Everything else", others([...names])]];
    this.body.replaceChildren(...groups.flatMap(([title, specs]) => {
      const shown = specs.filter((spec) => spec.evaluation || spec.series.some((one) => names.has(one.name)));
      if (!shown.length) return [];
      const figures = shown.map((spec) => this.figure(spec));
      return [h("section", { "aria-label": title }, h("h2", { class: "group" }, title), h("div", { class: "charts" }, figures))];
    }));
    for (const one of this.charts) this.seen.observe(one.element);
  }

  figure(spec) {
    const chart = new Chart(spec, (range) => this.zoom(range));
    const item = (text, save) => h("button", { type: "button", onclick: () => (chart.plot ? save(chart) : announce("nothing is drawn yet")) }, text);
    const exact = offline || !spec.series ? [] : this.runs.map((run) => h("a", { class: "button", href: address("csv", [["run", run], ...spec.series.map((s) => ["name", s.name])]) }, `CSV, every step of ${run}`));
    const menu = h("details", { class: "menu right" }, h("summary", { "aria-label": `Download ${spec.title}` }, "⭳"),
      h("div", {}, item("CSV as drawn", saveCsv), item("PNG", savePng), item("SVG", saveSvg), spec.series?.some((s) => s.name.startsWith("clock/")) ? [] : exact));
    const title = h("h3", {}, spec.title, spec.unit ? h("small", { class: "muted" }, ` ${spec.unit}`) : null);
    const element = h("figure", { class: "card", "data-chart": spec.id }, h("div", { class: "figure-head" }, title, menu), spec.help ? h("p", { class: "help" }, spec.help) : null, chart.element);
    this.charts.push({ spec, chart, element });
    return element;
  }

  sighted(entries) {
    for (const entry of entries) {
      const one = this.charts.find((chart) => chart.element === entry.target);
      if (!one) continue;
      if (entry.isIntersecting) this.visible.add(one);
      else this.visible.delete(one);
    }
    for (const series of this.series.values()) series.want(this.wantedNames());
    this.refresh();
  }

  wantedNames() {
    return [...this.visible].flatMap((one) => (one.spec.series || []).map((member) => member.name));
  }

  /** New rows of a run. */
  async heard(now) {
    if (!this.runs.includes(now.run)) return;
    const mark = `${now.generation} ${now.last} ${now.evaluation?.step}`;
    const series = this.series.get(now.run);
    if (series.mark === mark) return;
    const began = series.mark === undefined || series.mark.includes(" -1 ");
    series.mark = mark;
    this.evaluations.delete(now.run);
    if (began) await this.setRuns(this.runs);
    else await this.refresh();
  }

  async refresh() {
    await Promise.all(this.runs.map(async (run) => {
      await this.series.get(run)?.refresh().catch((error) => announce(error.message));
      if (!this.evaluations.has(run)) this.evaluations.set(run, await get("evaluations", { run }).catch(() => []));
    }));
    this.drawAll();
  }

  drawAll() {
    for (const one of this.visible) this.draw(one);
  }

  draw({ spec, chart }) {
    const curves = [];
    this.runs.forEach((run, place) => {
      if (spec.evaluation) {
        const rows = (this.evaluations.get(run) || []).filter((row) => "accuracy" in row);
        curves.push({ label: this.runs.length > 1 ? run : "accuracy", run: place, member: 0, x: rows.map((r) => r.step), y: rows.map((r) => r.accuracy), low: rows.map((r) => r.interval[0]), high: rows.map((r) => r.interval[1]) });
        return;
      }
      spec.series.forEach((member, i) => {
        const column = this.series.get(run)?.column(member.name);
        if (column) curves.push({ ...column, label: [this.runs.length > 1 ? run : "", member.label].filter(Boolean).join(" · "), run: place, member: i });
      });
    });
    chart.show(curves, spec.evaluation ? { ...this.options, width: 1 } : this.options);
  }

  set(change) {
    Object.assign(this.options, change);
    this.drawAll();
  }

  smooth(width) {
    this.smoothNote.textContent = width === 1 ? "off" : `${width} steps`;
    this.set({ width });
  }

  lastPart(share) {
    const last = Math.max(0, ...[...this.series.values()].map((series) => series.last ?? 0));
    this.zoom([Math.floor(last * (1 - share)), last]);
  }

  /** A range typed in: for fingers, and for exactness. */
  typed() {
    const last = Math.max(1, ...[...this.series.values()].map((series) => series.last ?? 1));
    const from = Math.max(0, Number(this.from.value || 0)), to = Number(this.to.value || last);
    if (Number.isFinite(from) && to > from) this.zoom([Math.round(from), Math.round(to)]);
  }

  async zoom(range) {
    this.options.zoom = range;
    this.from.value = range ? range[0] : "";
    this.to.value = range ? range[1] : "";
    this.all.disabled = range === null;
    this.rangeNote.textContent = range ? `steps ${range[0]} to ${range[1]}` : "";
    announce(range ? `showing steps ${range[0]} to ${range[1]}` : "showing all steps");
    this.drawAll();
    for (const series of this.series.values()) {
      series.setZoom(range);
      series.want(this.wantedNames());
    }
    await this.refresh();
  }

  filter(text) {
    const wanted = text.trim().toLowerCase();
    for (const { spec, element } of this.charts) {
      const words = [spec.title, spec.id, ...(spec.series || []).map((s) => `${s.name} ${s.label}`)].join(" ").toLowerCase();
      element.hidden = Boolean(wanted) && !words.includes(wanted);
    }
    for (const section of this.body.children) section.hidden = [...section.querySelectorAll("figure")].every((one) => one.hidden);
  }
}
