// The tab Now: one card a run.

import { h, put, s } from "./dom.js";
import { ago, bytes, clock, duration, num, percent } from "./format.js";

const STATES = {
  running: ["good", "running"], finished: ["good", "finished"], "stopped early": ["good", "stopped early"], paused: ["warn", "paused"],
  failed: ["bad", "failed"], dead: ["bad", "died"], silent: ["warn", "silent"], new: ["muted", "not started"],
};
const STAGES = [["sampling", "Sampling", "rollouts", "generate"], ["verifying", "Verifying", "rollouts", "verify"], ["scoring", "Scoring", "rollouts", "score"], ["training", "Training", "micro-batches", null]];
const CLOCK = [["sampling_s", "sampling"], ["verifying_s", "verifying"], ["scoring_s", "scoring"], ["train_s", "training"], ["publish_s", "publishing"], ["rest", "rest"]];
const FIGURES = [["reward_mean", "Reward", num], ["kept_fraction", "Kept", percent], ["loss", "Loss", num], ["response_length_mean", "Length", num], ["entropy", "Entropy", num]];

export class Now {
  constructor() {
    this.cards = new Map();
    this.element = h("div", { class: "cards side" });
  }

  setRuns(runs) {
    for (const run of [...this.cards.keys()]) if (!runs.includes(run)) this.cards.delete(run);
    for (const run of runs) if (!this.cards.has(run)) this.cards.set(run, new Card());
    put(this.element, runs.map((run) => this.cards.get(run).element));
  }

  heard(now) {
    this.cards.get(now.run)?.show(now);
  }
}

/** Parts are replaced only when what they show changed, so that a selection or a screen reader is not disturbed. */
class Card {
  constructor() {
    this.parts = ["head", "progress", "warnings", "facts", "stages", "bars", "figures", "events", "links"].map((name) => [name, h("div", {})]);
    this.parts.find(([name]) => name === "warnings")[1].setAttribute("aria-live", "polite");
    this.shown = {};
    this.element = h("section", { class: "card", "aria-busy": "true" }, h("p", { class: "muted" }, "Loading…"));
  }

  show(now) {
    if (this.element.getAttribute("aria-busy")) {
      this.element.removeAttribute("aria-busy");
      this.element.setAttribute("aria-label", now.run);
      put(this.element, this.parts.map(([, part]) => part));
    }
    const made = { head: head(now), progress: progress(now), warnings: warnings(now), facts: facts(now), stages: stages(now), bars: bars(now), figures: figures(now), events: events(now), links: links(now) };
    for (const [name, part] of this.parts) {
      const [mark, build] = made[name];
      const key = JSON.stringify(mark);
      if (this.shown[name] === key) continue;
      this.shown[name] = key;
      put(part, build());
    }
  }
}

function head({ run, folder, state, settings }) {
  return [[state, settings], () => {
    const [tone, word] = STATES[state.kind] || ["muted", state.kind];
    return [
      h("div", { class: "head" }, h("h2", {}, run), h("span", { class: `badge ${tone}` }, word), state.text ? h("span", {}, state.text) : null),
      h("p", { class: "muted" }, Object.entries(settings).map(([name, value]) => `${name}: ${value}`).join(" · ") || folder),
    ];
  }];
}

function progress({ done, total, phase, state }) {
  return [[done, total, phase, state.kind], () => {
    const words = total ? `step ${num(done)} of ${num(total)}` : `step ${num(done)}`;
    return [total ? h("progress", { max: String(total), value: done, "aria-label": words }) : null, h("p", {}, h("strong", {}, words), phase ? ` · ${phase}` : "")];
  }];
}

function warnings({ warnings: found }) {
  return [found, () => found.map((warn) => h("div", { class: `alert ${warn.level}` },
    h("p", {}, h("strong", {}, warn.level === "error" ? "Error: " : "Warning: "), warn.text, h("small", { class: "muted" }, ` step ${warn.step}`)), h("p", {}, warn.do)))];
}

function facts(now) {
  const evaluation = now.evaluation, before = now.first_evaluation;
  const list = [
    ["Policy version", num(now.policy_version)],
    ["Seconds a step", duration(now.seconds_per_step), "mean of ten"],
    ["Tokens a second", num(now.tokens_per_s, 3)],
    now.eta_s !== null ? ["Time left", duration(now.eta_s)] : null,
    evaluation ? ["Accuracy", percent(evaluation.accuracy), before ? `${percent(before.accuracy)} at step ${before.step}, now ${evaluation.step}` : `step ${evaluation.step}, ${evaluation.problems} problems`] : null,
    now.rss_bytes ? ["Memory, rank 0", bytes(now.rss_bytes)] : null,
    now.gpu_bytes ? ["GPU memory, peak", bytes(now.gpu_bytes)] : null,
  ].filter(Boolean);
  return [list, () => h("dl", { class: "facts" }, list.map(([name, value, more]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, more ? [" ", h("small", {}, more)] : null))))];
}

function stages({ stages: work, redis, state, phase }) {
  const queues = Object.fromEntries((redis.queues || []).map((queue) => [queue.stream, queue]));
  const rows = STAGES.filter(([key, , , stream]) => key in work || (state.kind === "running" && stream && queues[stream])).map(([key, name, unit, stream]) => {
    const at = work[key], queue = stream ? queues[stream] : null;
    return { name, done: at?.done, of: at?.of, unit, queue: queue ? [queue.backlog - queue.leased, queue.leased, Math.round(queue.oldest_s), queue.alive, queue.backlog] : null };
  });
  const trouble = state.kind === "running" && redis.trouble ? redis.trouble : "";
  return [[rows, trouble, phase], () => [
    h("div", { class: "stages" }, rows.map(({ name, done, of, unit, queue }) => h("div", { class: "stage" },
      h("span", {}, name), of ? h("progress", { max: String(of), value: done, "aria-label": `${name}: ${done} of ${of} ${unit}` }) : h("span", {}),
      h("span", { class: "num" }, of ? `${done}/${of}` : ""),
      queue ? h("small", {}, `${queue[0]} waiting, ${queue[1]} leased` + (queue[4] ? `, oldest ${duration(queue[2])}` : "") + ` · ${queue[3]} worker${queue[3] === 1 ? "" : "s"} alive`) : null))),
    trouble ? h("p", { class: "muted" }, `Queues: ${trouble}`) : null,
  ]];
}

function bars({ clock: { x, y } }) {
  return [[x, Object.keys(y)], () => {
    if (!x.length || !y.seconds) return [];
    const split = "sampling_s" in y;
    const parts = split ? CLOCK : [["collect_s", "sampling, verifying, scoring"], ["train_s", "training"], ["publish_s", "publishing"], ["rest", "rest"]];
    const at = (name, i) => (name === "rest" ? Math.max(0, (y.seconds[i] || 0) - parts.slice(0, -1).reduce((sum, [key]) => sum + (y[key]?.[i] || 0), 0)) : y[name]?.[i] || 0);
    const most = Math.max(...y.seconds.map((value) => value || 0), 1e-9), wide = 100 / Math.max(20, x.length);
    const tints = parts.map(([, ], i) => "s" + (split ? i : [0, 3, 4, 5][i]));
    const drawn = x.map((step, i) => {
      let top = 100;
      return s("g", {}, s("title", {}, `step ${step}: ${duration(y.seconds[i])}`), parts.map(([name], p) => {
        const height = 100 * at(name, i) / most;
        top -= height;
        return s("rect", { x: i * wide, y: top, width: wide * 0.85, height, class: tints[p] });
      }));
    });
    const mean = (name) => x.reduce((sum, _, i) => sum + at(name, i), 0) / x.length;
    const words = parts.map(([name, label]) => `${label} ${duration(mean(name))}`).join(", ");
    return [h("h3", {}, "Seconds by stage", h("small", { class: "muted" }, ` last ${x.length} steps, up to ${duration(most)}`)),
      s("svg", { class: "bars", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `Mean seconds by stage: ${words}` }, drawn),
      h("div", { class: "key" }, parts.map(([name, label], p) => h("span", {}, s("svg", { viewBox: "0 0 14 10", "aria-hidden": "true" }, s("rect", { width: 14, height: 10, class: tints[p] })), label, h("b", {}, duration(mean(name))))))];
  }];
}

function figures({ figures: found }) {
  const list = FIGURES.filter(([name]) => name in found);
  return [[list.map(([name]) => found[name])], () => h("dl", { class: "facts" }, list.map(([name, title, say]) => {
    const { value, recent } = found[name];
    return h("div", {}, h("dt", {}, title), h("dd", {}, say(value), spark(recent, title)));
  }))];
}

function spark(values, title) {
  if (values.length < 2) return null;
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const path = values.map((value, i) => `${i ? "L" : "M"}${(100 * i / (values.length - 1)).toFixed(1)} ${(28 - 26 * (value - low) / span).toFixed(1)}`).join("");
  return s("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": `${title}, last ${values.length} steps: from ${num(values[0])} to ${num(values[values.length - 1])}` }, s("path", { d: path }));
}

function events({ events: found, cuts }) {
  const rows = found.filter((event) => event.kind !== "phase").slice(-12).reverse();
  return [[rows, cuts], () => (rows.length || cuts.length ? [
    h("h3", {}, "What happened"),
    cuts.map(({ from, to }) => h("p", { class: "warn" }, `Resumed: steps after ${to} are made again (it had come to ${from}).`)),
    h("ul", { class: "log", tabindex: "0", "aria-label": "What happened" }, rows.map((event) => h("li", {}, h("time", { title: clock(event.time) }, ago(event.time)),
      h("span", { class: ["died", "failed", "warning"].includes(event.kind) ? "warn" : null }, event.text)))),
  ] : [])];
}

function links({ links: found }) {
  return [found, () => (found.length ? [h("h3", {}, "Elsewhere"), h("div", { class: "links" }, found.map(({ name, url, command }) => (url ? h("a", { href: /^https?:/.test(url) ? url : "#", rel: "noreferrer", target: "_blank" }, name) : h("span", {}, `${name}: `, h("code", {}, command)))))] : [])];
}
