// The tab Queues and faults: what Redis holds of a run and what its processes complained of. Nothing here changes anything.

import { get, offline } from "./api.js";
import { h, put, table } from "./dom.js";
import { ago, bytes, clock, duration, num } from "./format.js";

const EVERY_MS = 3000;

export class Faults {
  constructor() {
    this.element = h("div", { class: "cards" });
    this.runs = [];
    this.shown = new Map();
  }

  async setRuns(runs) {
    this.runs = runs;
    this.shown.clear();
    this.cards = new Map(runs.map((run) => [run, h("section", { class: "card", "aria-label": run }, h("h2", {}, run))]));
    put(this.element, [...this.cards.values()]);
    await this.load();
  }

  start() {
    this.timer = offline ? null : setInterval(() => this.load(), EVERY_MS);
  }

  stop() {
    clearInterval(this.timer);
  }

  heard() {}

  async load() {
    await Promise.all(this.runs.map(async (run) => {
      const found = await get("queues", { run }).catch((error) => ({ redis: { trouble: error.message }, processes: [], events: [], cuts: [] }));
      const mark = JSON.stringify(found);
      if (this.shown.get(run) === mark || !this.cards.has(run)) return;
      this.shown.set(run, mark);
      const card = this.cards.get(run);
      const open = new Map([...card.querySelectorAll("details")].map((one) => [one.dataset.key, one.open]));
      put(card, h("h2", {}, run), redisPart(found.redis), deadPart(found.redis, run), eventPart(found), processPart(found), leasePart(found.redis));
      for (const one of card.querySelectorAll("details")) one.open = open.get(one.dataset.key) ?? one.open;
    }));
  }
}

function redisPart(redis) {
  if (redis.trouble || !redis.queues) return h("p", {}, "Redis", redis.at ? [" at ", h("code", {}, redis.at)] : "", `: ${redis.trouble || "not asked"}. While a run lives its queues are shown here.`);
  const alive = (stream) => redis.workers.filter((worker) => worker.stream === stream);
  return [
    h("p", { class: "muted" }, "Redis at ", h("code", {}, redis.at)),
    h("h3", {}, "Streams"),
    table("Streams", ["stream", ["waiting", "num"], ["leased", "num"], ["oldest", "num"], ["most deliveries", "num"], ["workers alive", "num"]],
      redis.queues.map((q) => [q.stream, num(q.backlog - q.leased), num(q.leased), q.backlog ? duration(q.oldest_s) : "–", q.leased ? num(q.attempts) : "–", `${alive(q.stream).filter((w) => w.alive).length} of ${alive(q.stream).length}`]), "No stream yet."),
  ];
}

function leasePart(redis) {
  if (!redis.leases) return null;
  return [
    h("h3", {}, "Who holds what"),
    h("details", { "data-key": "leases", open: redis.leases.length > 0 && redis.leases.length <= 12 }, h("summary", {}, `Leases (${num(redis.leases.length)})`), table("Leases", ["stream", "message", "holder", ["age", "num"], ["renewed", "num"], ["deliveries", "num"], "why the last attempt ended"],
      redis.leases.map((l) => [l.stream, h("code", {}, l.id), l.holder, duration(l.age_s), duration(l.renewed_s) + " ago", num(l.deliveries), l.reason || "–"]), "Nobody holds a message.")),
    h("details", { "data-key": "workers" }, h("summary", {}, `Workers (${redis.workers.length})`),
      table("Workers", ["stream", "name", ["leased", "num"], ["last asked", "num"], "state"], redis.workers.map((w) => [w.stream, w.name, num(w.leased), duration(w.idle_ms / 1000) + " ago", h("span", { class: w.alive ? "good" : "bad" }, w.alive ? "alive" : "hangs or gone")]), "None.")),
  ];
}

function deadPart(redis, run) {
  if (!redis.dead) return null;
  return [
    h("h3", {}, `Dead letters (${num(redis.dead_count ?? redis.dead.length)})`),
    table("Dead letters", ["id", "stream", ["deliveries", "num"], ["size", "num"], ["reason", "wide"]], redis.dead.map((d) => [h("code", {}, d.id), d.stream, num(d.attempts), bytes(d.bytes), d.reason]), "None: nothing was given up."),
    redis.dead.length ? h("p", { class: "muted" }, "This page only looks. ", h("code", {}, `rgopd queues --config ${run}/up.yaml --replay ID`), " gives one another life, ", h("code", {}, "--drop ID"), " forgets it.") : null,
  ];
}

function processPart({ processes }) {
  return [
    h("h3", {}, "Processes"),
    table("Processes", ["process", "address", ["last complaints in its log", "wide"]], processes.map((p) => [p.name, p.url ? h("code", {}, p.url.split("?")[0]) : "–",
      p.problems.length ? h("ul", { class: "log" }, p.problems.slice().reverse().map((line) => h("li", {}, h("time", {}, line.time.slice(11, 19)), h("span", { class: line.level === "warning" ? "warn" : "bad" }, line.text)))) : "none"]), "No logs in this folder: its processes were not started by rgopd up."),
  ];
}

function eventPart({ events, cuts }) {
  return [
    h("h3", {}, "Starts, deaths, restarts"),
    cuts.map(({ from, to }) => h("p", { class: "warn" }, `Resumed while this page looked on: steps after ${to} are made again (it had come to ${from}).`)),
    table("Starts, deaths, restarts", ["when", "who", "what", ["", "wide"]], events.slice().reverse().map((e) => [h("time", { title: clock(e.time) }, ago(e.time)), e.process || e.source, h("span", { class: ["died", "failed"].includes(e.kind) ? "bad" : null }, e.kind), e.text]), "Nothing was written down."),
  ];
}
