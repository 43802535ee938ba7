// The figures behind the curves of one run: fetched as they come into sight, then only what is new.

import { get } from "./api.js";

const POINTS = 600;

/** Columns of one run between two steps. All of them come in one block, so that a step has one place in all. */
export class Series {
  constructor(run) {
    this.run = run;
    this.zoom = null;
    this.wanted = new Set();
    this.blocks = [];
    this.generation = null;
    this.busy = Promise.resolve();
  }

  /** Name columns that are on screen from now on. */
  want(names) {
    for (const name of names) this.wanted.add(name);
  }

  /** Another range of steps: everything is fetched again, finer or coarser. */
  setZoom(zoom) {
    this.zoom = zoom;
    this.blocks = [];
  }

  /** Fetch what is missing and what is new. One call at a time: answers must not overtake each other. */
  refresh() {
    this.busy = this.busy.then(() => this.fetch(), () => this.fetch());
    return this.busy;
  }

  async fetch() {
    const have = new Set(this.blocks.flatMap((block) => block.names));
    const missing = [...this.wanted].filter((name) => !have.has(name));
    if (missing.length) await this.load(missing);
    if (!this.zoom) await this.extend();
  }

  async load(names) {
    const [low, high] = this.zoom || [0, 2 ** 52];
    const answer = await get("series", { run: this.run, name: names, low, high, points: POINTS });
    this.check(answer);
    this.blocks.push({ names, step: answer.step, clock: answer.clock, added: 0 });
  }

  async extend() {
    if (!this.blocks.length) return;
    const ends = this.blocks.flatMap((block) => [block.step, block.clock].map((part) => part.x[part.x.length - 1] ?? -1));
    const low = Math.min(...ends.filter((end) => end >= 0), Infinity);
    const names = this.blocks.flatMap((block) => block.names);
    if (low === Infinity) {
      this.blocks = [];
      return this.load(names);
    }
    const answer = await get("series", { run: this.run, name: names, low: low + 1, points: POINTS });
    if (this.check(answer) || !answer.step.exact || !answer.clock.exact || this.blocks.some((block) => block.added > POINTS)) {
      this.blocks = []; // rows were taken back, or the new ones outgrew the old ones: thin out anew
      return this.load(names);
    }
    for (const block of this.blocks) {
      block.added += answer.step.x.length;
      for (const [part, news] of [[block.step, answer.step], [block.clock, answer.clock]]) append(part, news);
    }
  }

  /** Whether rows that were already here are no longer true. */
  check(answer) {
    const anew = this.generation !== null && this.generation !== answer.generation;
    this.generation = answer.generation;
    this.cuts = answer.cuts;
    this.last = answer.last;
    if (anew) this.blocks = [];
    return anew;
  }

  /** { x, y, low, high } of a column, or null before it is here. */
  column(name) {
    const block = this.blocks.find((one) => one.names.includes(name));
    if (!block) return null;
    const clock = name.startsWith("clock/");
    const part = clock ? block.clock : block.step, key = clock ? name.slice(6) : name;
    if (!(key in part.y)) return null;
    return { x: part.x, y: part.y[key], low: part.low?.[key], high: part.high?.[key] };
  }
}

function append(part, news) {
  const last = part.x[part.x.length - 1] ?? -1;
  for (let i = 0; i < news.x.length; i++) {
    if (news.x[i] <= last) continue;
    part.x.push(news.x[i]);
    for (const name of Object.keys(part.y)) {
      const value = news.y[name]?.[i] ?? null;
      part.y[name].push(value);
      if (part.low?.[name]) {
        part.low[name].push(value);
        part.high[name].push(value);
      }
    }
  }
}
