// A chart as a file: CSV of what is drawn, PNG of the canvas with its title, SVG made anew from the numbers.

import { download } from "./dom.js";
import { color, tint } from "./state.js";
import { limits, short } from "./chart.js";
import { smooth } from "./smooth.js";

export function saveCsv(chart) {
  const steps = [...new Set(chart.drawn.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const at = chart.drawn.map((curve) => new Map(curve.x.map((x, i) => [x, curve.y[i]])));
  const names = chart.drawn.map((curve) => curve.label || chart.spec.title);
  const rows = steps.map((step) => [step, ...at.map((values) => values.get(step) ?? "")].join(","));
  download(`${chart.spec.id}.csv`, [["step", ...names.map(quoted)].join(","), ...rows].join("\n") + "\n", "text/csv");
}

/** A cell that no spreadsheet takes for a formula: run names are folder names. */
function quoted(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function savePng(chart) {
  const source = chart.plot.ctx.canvas, scale = source.width / chart.plot.width, head = 46 * scale;
  const canvas = document.createElement("canvas");
  canvas.width = source.width;
  canvas.height = source.height + head;
  const ctx = canvas.getContext("2d");
  ctx.fillStyle = color("card");
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(source, 0, head);
  ctx.fillStyle = color("ink");
  ctx.font = `600 ${14 * scale}px system-ui, sans-serif`;
  ctx.fillText(titleOf(chart), 8 * scale, 18 * scale);
  ctx.font = `${11 * scale}px system-ui, sans-serif`;
  let left = 8 * scale;
  for (const curve of chart.drawn) {
    if (!curve.label) continue;
    ctx.fillStyle = tint(curve.tint);
    ctx.fillRect(left, 30 * scale, 14 * scale, 3 * scale);
    ctx.fillText(curve.label, left + 18 * scale, 35 * scale);
    left += 30 * scale + ctx.measureText(curve.label).width;
  }
  canvas.toBlob((blob) => download(`${chart.spec.id}.png`, blob));
}

export function saveSvg(chart) {
  download(`${chart.spec.id}.svg`, svgOf(chart), "image/svg+xml");
}

/** The chart in markup; labels are escaped, colours are those of the theme in use. */
export function svgOf(chart) {
  const width = 720, height = 360, left = 62, right = 12, top = 52, bottom = 34;
  const { log, zoom, width: smoothing } = chart.options;
  const inside = (x) => !zoom || (x >= zoom[0] && x <= zoom[1]);
  const curves = chart.drawn.map((curve) => ({ ...curve, main: smooth(curve.x, curve.y, smoothing) }));
  const xs = curves.flatMap((curve) => curve.x.filter(inside));
  const ys = curves.flatMap((curve) => [curve.main, curve.y, curve.low || [], curve.high || []].flatMap((part) => part.filter((v, i) => v !== null && v !== undefined && inside(curve.x[i]) && (!log || v > 0))));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)];
  const raw = log ? [Math.log10(Math.min(...ys)), Math.log10(Math.max(...ys))] : limits(Math.min(...ys), Math.max(...ys), chart.spec.range);
  const [y0, y1] = raw[1] > raw[0] ? raw : [raw[0] - 1, raw[0] + 1];
  const px = (x) => (left + (x - x0) / (x1 - x0) * (width - left - right)).toFixed(1);
  const py = (y) => (height - bottom - ((log ? Math.log10(y) : y) - y0) / (y1 - y0) * (height - top - bottom)).toFixed(1);
  const points = (x, y) => x.map((v, i) => [v, y[i]]).filter(([v, w]) => inside(v) && w !== null && w !== undefined && (!log || w > 0)).map(([v, w]) => `${px(v)},${py(w)}`);
  const out = [`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="11">`,
    `<rect width="${width}" height="${height}" fill="${color("card")}"/>`, `<text x="8" y="20" font-size="15" font-weight="600" fill="${color("ink")}">${escaped(titleOf(chart))}</text>`];
  for (let i = 0; i <= 4; i++) {
    const x = x0 + (x1 - x0) * i / 4, level = y0 + (y1 - y0) * i / 4, y = log ? 10 ** level : level;
    out.push(`<path d="M${px(x)} ${top}V${height - bottom}M${left} ${py(y)}H${width - right}" stroke="${color("grid")}"/>`,
      `<text x="${px(x)}" y="${height - 14}" text-anchor="middle" fill="${color("muted")}">${Math.round(x)}</text>`,
      `<text x="${left - 6}" y="${+py(y) + 4}" text-anchor="end" fill="${color("muted")}">${short(y)}</text>`);
  }
  let at = 8;
  for (const curve of curves) {
    if (curve.low) out.push(`<polygon points="${[...points(curve.x, curve.high), ...points(curve.x, curve.low).reverse()].join(" ")}" fill="${tint(curve.tint)}" fill-opacity=".18"/>`);
    else if (smoothing > 1) out.push(`<polyline points="${points(curve.x, curve.y).join(" ")}" fill="none" stroke="${tint(curve.tint)}" stroke-opacity=".33"/>`);
    out.push(`<polyline points="${points(curve.x, curve.main).join(" ")}" fill="none" stroke="${tint(curve.tint)}" stroke-width="2"${curve.dash.length ? ` stroke-dasharray="${curve.dash.join(" ")}"` : ""}/>`);
    if (curve.label) {
      out.push(`<path d="M${at} 35h16" stroke="${tint(curve.tint)}" stroke-width="3"/><text x="${at + 20}" y="39" fill="${color("ink")}">${escaped(curve.label)}</text>`);
      at += 34 + 6.2 * curve.label.length;
    }
  }
  return out.join("\n") + "\n</svg>\n";
}

function titleOf(chart) {
  return chart.spec.title + (chart.spec.unit ? ` (${chart.spec.unit})` : "");
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
