// One plot: uPlot drawn over curves of one or more runs, with zoom, smoothing, a keyboard and words for it.

import { h, announce } from "./dom.js";
import { num } from "./format.js";
import { color, tint } from "./state.js";
import { join, smooth } from "./smooth.js";

const HEIGHT = 215;
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const SYNC = "rgopd";

/**
 * What is drawn: { title, unit, range, curves: [{ label, run, member, x, y, low, high }] }; `member` is the place within the
 * chart (a sign of A), `run` that of the run. `options`: { width of smoothing, log, zoom: [from, to] or null }.
 */
export class Chart {
  constructor(spec, onZoom) {
    this.spec = spec;
    this.onZoom = onZoom;
    this.plot = null;
    this.drawn = [];
    this.key = h("div", { class: "key" });
    this.box = h("div", { class: "plot", tabindex: "0", role: "img", "aria-label": spec.title, onkeydown: (e) => this.pressed(e) });
    this.element = h("div", {}, this.key, this.box);
    this.resized = new ResizeObserver(() => this.plot && this.box.clientWidth > 0 && this.plot.setSize({ width: this.box.clientWidth, height: HEIGHT }));
    this.resized.observe(this.box);
  }

  destroy() {
    this.resized.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  show(curves, options) {
    this.options = options;
    this.drawn = curves.filter((curve) => curve.y.some((value) => value !== null && value !== undefined));
    if (!this.drawn.length) {
      this.destroyPlot();
      this.box.replaceChildren(h("p", { class: "muted" }, "no figures of this yet"));
      this.key.replaceChildren();
      this.shape = "";
      return;
    }
    const manyRuns = new Set(this.drawn.map((curve) => curve.run)).size > 1;
    const tables = [], series = [{}], bands = [];
    for (const curve of this.drawn) {
      curve.tint = manyRuns ? curve.run : curve.member;
      curve.dash = manyRuns ? DASHES[curve.member % DASHES.length] : [];
      const base = series.length;
      const smoothed = options.width > 1;
      const parts = [smoothed ? smooth(curve.x, curve.y, options.width) : curve.y];
      series.push(line(curve, smoothed ? 2.2 : 1.7, 1));
      if (curve.low) {
        parts.push(curve.high, curve.low);
        series.push(edge(curve), edge(curve));
        bands.push({ series: [base + 1, base + 2], fill: tint(curve.tint) + "2e" });
      } else if (smoothed) {
        parts.push(curve.y);
        series.push(line(curve, 1, 0.3));
      }
      curve.at = base;
      tables.push([curve.x, parts]);
    }
    const data = join(tables);
    const shape = JSON.stringify([series.map((one) => [one.kind, one.label]), bands.length, options.log, options.theme]);
    if (this.plot && this.shape === shape) {
      this.plot.setData(data, false);
      this.rescale(data);
    } else {
      this.destroyPlot();
      this.shape = shape;
      this.plot = new uPlot(this.settings(series, bands), data, this.box);
      this.rescale(data);
    }
    this.describe();
    this.legend(null);
  }

  destroyPlot() {
    this.plot?.destroy();
    this.plot = null;
    this.box.replaceChildren();
  }

  rescale(data) {
    const [from, to] = this.options.zoom || [data[0][0], data[0][data[0].length - 1]];
    this.plot.setScale("x", { min: from, max: Math.max(to, from + 1) });
  }

  settings(series, bands) {
    const ink = color("muted"), grid = { stroke: color("grid"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui, sans-serif" };
    const log = this.options.log;
    return {
      width: Math.max(220, this.box.clientWidth), height: HEIGHT, legend: { show: false }, series, bands,
      padding: [8, 10, 0, 0],
      scales: { x: { time: false }, y: log ? { distr: 3 } : { range: (u, min, max) => limits(min, max, this.spec.range) } },
      axes: [{ ...axis, size: 30, values: (u, at) => at.map((v) => (Number.isInteger(v) ? num(v) : "")) }, { ...axis, size: 58, values: (u, at) => at.map((v) => (v === null ? "" : short(v))) }],
      cursor: { sync: { key: SYNC }, drag: { x: true, y: false, setScale: false }, points: { size: 6 }, bind: { dblclick: () => () => this.onZoom(null) } },
      hooks: {
        setSelect: [(u) => {
          if (u.select.width < 5) return;
          const from = Math.round(u.posToVal(u.select.left, "x")), to = Math.round(u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          if (to > from) this.onZoom([from, to]);
        }],
        setCursor: [(u) => this.plot === u && this.legend(u.cursor.idx)],
      },
    };
  }

  /** Names and figures above the plot: those under the cursor, or the newest. */
  legend(at) {
    const data = this.plot.data;
    const parts = this.drawn.map((curve) => {
      const values = data[curve.at];
      let i = at ?? values.length - 1;
      while (i > 0 && (values[i] === null || values[i] === undefined)) i--;
      return h("span", {}, swatch(curve), curve.label, h("b", {}, num(values[i])));
    });
    const x = at === null || at === undefined ? null : data[0][at];
    if (x !== null && x !== undefined) parts.push(h("span", { class: "muted" }, "step " + num(x)));
    this.key.replaceChildren(...parts);
  }

  describe() {
    const words = this.drawn.map((curve) => {
      const known = curve.y.filter((value) => value !== null && value !== undefined);
      return `${curve.label || this.spec.title}: from ${num(known[0])} to ${num(known[known.length - 1])}, least ${num(Math.min(...known))}, greatest ${num(Math.max(...known))}`;
    });
    const x = this.drawn[0].x;
    const unit = this.spec.unit ? `, in ${this.spec.unit}` : "";
    this.box.setAttribute("aria-label", `${this.spec.title}${unit}, steps ${num(x[0])} to ${num(x[x.length - 1])}. ${words.join("; ")}. Arrow keys read values, plus and minus zoom, 0 shows all.`);
  }

  pressed(event) {
    if (!this.plot) return;
    const x = this.plot.data[0], step = event.shiftKey ? 10 : 1;
    const range = [this.plot.scales.x.min, this.plot.scales.x.max];
    const move = { ArrowRight: step, ArrowLeft: -step, Home: -Infinity, End: Infinity }[event.key];
    if (move !== undefined) {
      this.at = Math.max(0, Math.min(x.length - 1, (this.at ?? x.length - 1) + move));
      const curve = this.drawn[0];
      this.plot.setCursor({ left: this.plot.valToPos(x[this.at], "x"), top: this.plot.valToPos(this.plot.data[curve.at][this.at] ?? 0, "y") });
      announce(`step ${x[this.at]}: ` + this.drawn.map((c) => `${c.label} ${num(this.plot.data[c.at][this.at])}`).join(", "));
    } else if (event.key === "+" || event.key === "=") {
      const middle = x[this.at ?? Math.floor(x.length / 2)], quarter = (range[1] - range[0]) / 4;
      this.onZoom([Math.round(Math.max(range[0], middle - quarter)), Math.round(Math.min(range[1], middle + quarter))]);
    } else if (event.key === "-") {
      const half = (range[1] - range[0]) / 2;
      this.onZoom([Math.max(0, Math.round(range[0] - half)), Math.round(range[1] + half)]);
    } else if (event.key === "0" || event.key === "Escape") {
      this.onZoom(null);
    } else return;
    event.preventDefault();
  }
}

function line(curve, width, alpha) {
  const stroke = tint(curve.tint) + (alpha < 1 ? "55" : "");
  const few = curve.y.length < 25;
  return { kind: `line${width}`, label: `${curve.run} ${curve.label}`, stroke, width, dash: curve.dash, spanGaps: true, points: { show: few && alpha === 1, size: 5 } };
}

function edge(curve) {
  return { kind: "edge", label: curve.label, stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
}

function swatch(curve) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  element.setAttribute("viewBox", "0 0 22 10");
  element.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M0 5h22");
  path.setAttribute("stroke", tint(curve.tint));
  path.setAttribute("stroke-width", "3");
  if (curve.dash.length) path.setAttribute("stroke-dasharray", curve.dash.join(" "));
  element.append(path);
  return element;
}

/** A little room above and below; a share keeps its whole range in sight unless all of it lies in a tenth. */
export function limits(min, max, range) {
  if (min === null || max === null) return range || [0, 1];
  if (range && max - min > 0.1 * (range[1] - range[0])) return [Math.min(range[0], min), Math.max(range[1], max)];
  const room = max > min ? 0.07 * (max - min) : Math.abs(max) * 0.1 || 1;
  return [min - room, max + room];
}

export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return +(value / 1e9).toPrecision(3) + "G";
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  return size !== 0 && size < 1e-3 ? value.toExponential(0) : String(+value.toPrecision(4));
}
