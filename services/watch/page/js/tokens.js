// A response token by token: coloured by the teacher's or the loss's opinion; each token opens what both models had in mind.

import { get } from "./api.js";
import { announce, h, put, s } from "./dom.js";
import { num, percent, signed } from "./format.js";

const CHUNK = 250;
const LONG = 1500;
const GAP = [0.1, 0.7, 2];
const LOSS = [0.02, 0.2, 1];

/** The strip of one rollout. `at`: { run, step, id }. */
export class Strip {
  constructor(at, tokens) {
    this.at = at;
    this.tokens = tokens;
    this.mode = tokens.gap ? "gap" : "loss";
    this.support = new Map();
    this.card = h("div", { class: "token-card", hidden: true, tabindex: "0", role: "region", "aria-label": "What both models had in mind" });
    const figures = tokens.keep !== undefined;
    this.body = h("div", {
      class: "strip" + (tokens.pieces.length > LONG ? " long" : ""), tabindex: "0", role: "region",
      "aria-label": figures ? "Response by token. Arrow keys go from token to token." : "Response by token",
      onpointerover: (e) => this.over(e), onclick: (e) => this.over(e), onkeydown: (e) => this.pressed(e),
    });
    this.element = h("div", {}, figures ? this.tools() : h("p", { class: "muted" }, "No figures are kept of these tokens."), h("div", { class: "token-view" }, this.body, this.card));
    this.paint();
  }

  tools() {
    const modes = [["gap", "Teacher − student", Boolean(this.tokens.gap)], ["loss", "Loss", true], ["none", "Plain", true]];
    this.buttons = modes.filter(([, , there]) => there).map(([mode, text]) => h("button", { type: "button", class: "small", "aria-pressed": String(mode === this.mode), onclick: () => this.turn(mode) }, text));
    this.scale = h("span", { class: "key" });
    const note = this.tokens.cut ? h("span", { class: "muted" }, `figures of the first ${num(this.tokens.keep.length)} of ${num(this.tokens.pieces.length)} tokens`) : null;
    const tools = h("div", { class: "tools" }, this.buttons, this.scale, note);
    this.explainScale();
    return tools;
  }

  turn(mode) {
    this.mode = mode;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.textContent === { gap: "Teacher − student", loss: "Loss", none: "Plain" }[mode]));
    this.explainScale();
    this.paint();
  }

  explainScale() {
    const cell = (tone, text) => h("span", { class: `legend-cell ${tone}` }, text);
    const scales = {
      gap: [cell("d3", `< −${GAP[2]}`), cell("d2", `−${GAP[1]}`), cell("d1", `−${GAP[0]}`), cell("u1", `+${GAP[0]}`), cell("u2", `+${GAP[1]}`), cell("u3", `> +${GAP[2]}`), " log πT − log πθ; orange: the student likes it better, blue: the teacher"],
      loss: [cell("l1", `> ${LOSS[0]}`), cell("l2", `> ${LOSS[1]}`), cell("l3", `> ${LOSS[2]}`), " nats"], none: [],
    };
    put(this.scale, scales[this.mode], this.tokens.keep.some((kept, i) => !kept && !(this.tokens.told || []).includes(i)) ? h("span", {}, h("span", { class: "tok dropped" }, "dotted"), " dropped by the gate") : null,
      this.tokens.told?.length ? h("span", {}, h("span", { class: "tok told" }, "grey"), " said by its environment, not trained on") : null);
  }

  paint() {
    const { pieces, special, ids } = this.tokens;
    const marks = new Set(special), told = this.told = new Set(this.tokens.told || []);
    const chunks = [];
    for (let first = 0; first < pieces.length; first += CHUNK) {
      const chunk = h("span", { class: "chunk" });
      for (let i = first; i < Math.min(first + CHUNK, pieces.length); i++) {
        const text = marks.has(i) ? pieces[i] || `⟨${ids[i]}⟩` : pieces[i].replaceAll("\n", "⏎\n") || "·";
        const token = document.createElement("span");
        token.className = "tok " + this.tone(i) + (marks.has(i) ? " special" : pieces[i] === "" ? " part" : "") + (told.has(i) ? " told" : this.tokens.keep && this.tokens.keep[i] === 0 ? " dropped" : "");
        token.dataset.i = i;
        token.dir = "auto";
        token.textContent = text;
        chunk.append(token);
      }
      chunks.push(chunk);
    }
    put(this.body, chunks);
  }

  tone(i) {
    const value = (this.tokens[this.mode] || [])[i];
    if (value === undefined || value === null) return "";
    const size = Math.abs(value), steps = this.mode === "gap" ? GAP : LOSS;
    const level = size >= steps[2] ? 3 : size >= steps[1] ? 2 : size >= steps[0] ? 1 : 0;
    return level ? (this.mode === "loss" ? "l" : value > 0 ? "u" : "d") + level : "";
  }

  over(event) {
    const token = event.target.closest?.(".tok[data-i]");
    if (token) this.open(Number(token.dataset.i));
  }

  pressed(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move === undefined || !this.tokens.keep) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(this.tokens.pieces.length - 1, (this.here ?? -1) + move));
    this.open(next);
    announce(`token ${next + 1} ${visible(this.tokens.pieces[next])}` + (this.told?.has(next) ? ", said by its environment" : this.tokens.gap ? `, teacher minus student ${signed(this.tokens.gap[next])}` : ""));
    this.body.querySelector(`[data-i="${next}"]`)?.scrollIntoView({ block: "nearest" });
  }

  async open(i) {
    if (this.here === i || !this.tokens.keep || i >= this.tokens.keep.length) return;
    this.body.querySelector(".here")?.classList.remove("here");
    this.body.querySelector(`[data-i="${i}"]`)?.classList.add("here");
    this.here = i;
    this.card.hidden = false;
    const row = await this.row(i).catch((error) => ({ error }));
    if (this.here === i) put(this.card, row.error ? h("p", {}, row.error.message) : this.describe(i, row));
  }

  /** What was likeliest at a position; fetched with its neighbours, since the pointer goes there next. */
  async row(i) {
    const part = Math.floor(i / 128);
    if (!this.support.has(part)) this.support.set(part, get("support", { ...this.at, first: part * 128, count: 128 }));
    return (await this.support.get(part)).rows[i - part * 128];
  }

  describe(i, { top, tail }) {
    const t = this.tokens, teachers = Boolean(t.teacher), mark = t.ids[i];
    const sampled = top.some(([, , , id]) => id === mark);
    const line = (label, student, teacher, cls, here) => h("tr", { class: here ? "sampled" : null },
      h("td", { class: "label mono", dir: "auto", title: label }, label), h("td", { class: "num" }, likely(student)), teachers ? h("td", { class: "num" }, likely(teacher)) : null, h("td", {}, pair(student, teacher)));
    const rows = top.map(([label, student, teacher, id]) => line(visible(label), student, teacher, "", id === mark));
    if (!sampled) rows.unshift(line(visible(t.pieces[i]) + " (sampled)", t.student[i], teachers ? t.teacher[i] : null, "", true));
    rows.push(line("all others (tail)", tail[0], tail[1], "", false));
    if (this.told?.has(i)) return [h("p", {}, h("strong", { class: "mono", dir: "auto" }, visible(t.pieces[i])), ` token ${i + 1} of ${t.pieces.length}, id ${mark} · said by its environment: context, not trained on`)];
    const why = t.keep[i] ? h("span", { class: "good" }, "kept") : h("span", { class: "bad" }, "dropped");
    return [
      h("p", {}, h("strong", { class: "mono", dir: "auto" }, visible(t.pieces[i])), ` token ${i + 1} of ${t.pieces.length}, id ${mark} · `, why,
        ` · loss ${num(t.loss[i])} nats`, teachers ? ` · teacher − student ${signed(t.gap[i])}` : ""),
      h("table", {}, h("caption", { class: "visually-hidden" }, "What student and teacher had in mind"),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "token"), h("th", { scope: "col", class: "num" }, "student"), teachers ? h("th", { scope: "col", class: "num" }, "teacher") : null, h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "as bars")))),
        h("tbody", {}, rows)),
    ];
  }
}

function likely(logprob) {
  if (logprob === null || logprob === undefined) return "0";
  const share = Math.exp(logprob);
  return share >= 0.0005 ? percent(share, 1) : share.toExponential(0);
}

function pair(student, teacher) {
  const width = (value) => (value === null || value === undefined ? 0 : 100 * Math.exp(value));
  return s("svg", { class: "pair", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "student", width: width(student), height: 4.5 }), s("rect", { class: "teacher", y: 5.5, width: width(teacher), height: 4.5 }));
}

/** Spaces and line ends that can be seen. */
export function visible(text) {
  return text === "" ? "·" : text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}
