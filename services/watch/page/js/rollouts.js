// The tab Rollouts: the groups of a step, what the verifier and the gate said of each response, and its tokens.

import { get } from "./api.js";
import { h, put, announce } from "./dom.js";
import { num, percent, signed } from "./format.js";
import { Strip } from "./tokens.js";
import { read, write } from "./state.js";

const CHOICES = {
  sign: ["Sign of A", [["", "any"], ["positive", "A > 0"], ["zero", "A = 0"], ["negative", "A < 0"]]],
  kept: ["Gate", [["", "any"], ["all", "kept"], ["part", "kept in part"], ["none", "dropped"], ["skipped", "never seen by it"]]],
  verdict: ["Verdict", [["", "any"], ["passed", "passed"], ["failed", "failed"], ["error", "error"]]],
};

export class Rollouts {
  constructor() {
    this.filter = { domain: "", sign: "", kept: "", verdict: "", text: "" };
    this.step = null;
    this.follows = true;
    this.run = null;
    this.runBox = h("select", { "aria-label": "Run", onchange: (e) => this.setRun(e.target.value) });
    this.domainBox = h("select", { "aria-label": "Domain", onchange: (e) => this.change({ domain: e.target.value }) });
    this.slider = h("input", { type: "range", min: "0", max: "0", "aria-label": "Step", oninput: (e) => this.pick(Number(e.target.value)) });
    this.number = h("input", { type: "number", min: "0", "aria-label": "Step", onchange: (e) => this.go(Number(e.target.value)) });
    this.latest = h("input", { type: "checkbox", checked: true, onchange: (e) => this.setFollow(e.target.checked) });
    this.note = h("p", { class: "muted", role: "status" });
    this.header = h("p", { class: "muted" });
    this.list = h("div", { class: "cards" });
    this.element = h("div", {}, this.stepTools(), this.filterTools(), this.note, this.header, this.list);
  }

  stepTools() {
    const button = (text, name, by) => h("button", { type: "button", "aria-label": name, onclick: () => this.walk(by) }, text);
    return h("div", { class: "steps" }, h("label", {}, "Run", this.runBox), button("◀", "Earlier step", -1), this.number, button("▶", "Later step", 1), this.slider, h("label", {}, this.latest, "Follow the newest"));
  }

  filterTools() {
    const select = (key) => h("label", {}, CHOICES[key][0], h("select", { "aria-label": CHOICES[key][0], onchange: (e) => this.change({ [key]: e.target.value }) }, CHOICES[key][1].map(([value, text]) => h("option", { value }, text))));
    let wait = 0;
    const typed = (e) => {
      clearTimeout(wait);
      const text = e.target.value;
      wait = setTimeout(() => this.change({ text }), 250);
    };
    return h("div", { class: "filters" }, h("label", {}, "Domain", this.domainBox), ...Object.keys(CHOICES).map(select), h("label", {}, "Text in prompt or response", h("input", { type: "search", "aria-label": "Text in prompt or response", maxlength: "1000", oninput: typed })));
  }

  async setRuns(runs) {
    put(this.runBox, runs.map((run) => h("option", { value: run }, run)));
    const asked = read();
    if (asked.step !== null && this.run === null) {
      this.step = Number(asked.step);
      this.follows = this.latest.checked = false;
    }
    if (!runs.includes(this.run)) this.run = runs[0] ?? null;
    this.runBox.value = this.run ?? "";
    await this.load();
  }

  async setRun(run) {
    this.run = run;
    this.filter.domain = "";
    await this.load();
  }

  async heard(now) {
    if (now.run !== this.run || this.mark === `${now.generation} ${now.last}`) return;
    this.mark = `${now.generation} ${now.last}`;
    if (this.follows) await this.load();
  }

  setFollow(on) {
    this.follows = on;
    this.latest.checked = on;
    if (on) this.load();
    else write({ step: this.step });
  }

  change(part) {
    Object.assign(this.filter, part);
    this.load();
  }

  pick(place) {
    this.go(this.steps[place]);
  }

  walk(by) {
    if (!this.steps?.length) return;
    const place = this.steps.indexOf(this.step);
    this.go(this.steps[Math.max(0, Math.min(this.steps.length - 1, place + by))]);
  }

  go(step) {
    if (!Number.isFinite(step)) return;
    this.step = step;
    this.setFollow(false);
    this.load();
  }

  async load() {
    if (this.run === null) return;
    const ticket = (this.ticket = {});
    const asked = { run: this.run, step: this.follows ? null : this.step, ...this.filter };
    let answer;
    try {
      answer = await get("rollouts", asked);
    } catch (error) {
      if (ticket === this.ticket) put(this.note, error.message);
      return;
    }
    if (ticket !== this.ticket) return;
    this.steps = answer.steps;
    this.step = answer.step;
    if (!this.follows) write({ step: answer.step });
    this.slider.max = String(Math.max(0, answer.steps.length - 1));
    this.slider.value = String(Math.max(0, answer.steps.indexOf(answer.step)));
    this.number.value = answer.step ?? "";
    put(this.domainBox, [["", "any"], ...answer.domains.map((name) => [name, name || "(none)"])].map(([value, text]) => h("option", { value }, text)));
    this.domainBox.value = this.filter.domain;
    const missed = asked.step !== null && asked.step !== answer.step ? `Nothing is kept of step ${asked.step}; the nearest is ${answer.step}. ` : "";
    put(this.note, answer.trouble || `${missed}${answer.shown} of ${answer.of} kept rollouts of step ${answer.step}` + (answer.steps.length > 1 ? `; ${answer.steps.length} steps are kept` : ""));
    put(this.header, headerWords(answer.header));
    const wide = new Set([...this.list.querySelectorAll("details[open][data-id]")].map((one) => one.dataset.id));
    put(this.list, answer.groups.map((group) => groupCard(group, { run: this.run, step: answer.step, read: () => this.follows && this.setFollow(false) }, wide)));
    const wanted = read().rollout;
    if (wanted) this.list.querySelector(`details[data-id="${CSS.escape(wanted)}"]`)?.setAttribute("open", "");
  }
}

function headerWords(header) {
  if (!header.gate) return "";
  const gate = header.gate.enabled === false ? "gate off" : `gate by ${header.gate.granularity}, δ ${header.gate.delta}` + (header.gate_open ? ", open (warm-up)" : "");
  const own = Object.entries(header.domains ?? {}).filter(([, set]) => set.temperature !== undefined).map(([name, set]) => `${name} ${set.temperature}`);
  return `${header.objective ?? ""} · ${gate} · policy version ${header.policy_version} · ${num(header.kept_rollouts)} of ${num(header.rollouts)} rollouts kept on disk · temperature ${[header.temperature, ...own].join(", ")}`;
}

function groupCard(group, at, open) {
  const facts = [group.domain, `${group.passed} of ${group.size} passed`, group.redraw ? `drawn again (${group.redraw})` : "", group.teacher ? `teacher ${group.teacher}` : "", `policy version ${group.policy_version}`].filter(Boolean);
  return h("section", { class: "card", "aria-label": `Group ${group.group_id}` },
    h("div", { class: "head" }, h("h3", { class: "mono" }, group.group_id), h("span", { class: "muted" }, facts.join(" · "))),
    h("div", { class: "prompt mono", dir: "auto", tabindex: "0", role: "region", "aria-label": "Prompt" }, group.prompt_text),
    checkWords(group.check),
    group.rollouts.map((rollout) => rolloutRow(rollout, at, open.has(rollout.id))));
}

function checkWords(check) {
  const entries = Object.entries(check || {}).filter(([, value]) => value !== null && value !== "");
  if (!entries.length) return null;
  const text = entries.map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join("\n");
  return h("details", {}, h("summary", {}, "What the verifier was given"), h("pre", { class: "prompt", tabindex: "0", dir: "auto" }, text));
}

function rolloutRow(rollout, at, open) {
  const status = rollout.verdict?.status || rollout.outcome;
  const tone = { passed: "good", failed: "bad", error: "warn" }[status] || "muted";
  const gate = { all: ["good", "kept"], part: ["warn", `kept ${percent(rollout.kept_tokens / Math.max(1, rollout.length), 0)}`], none: ["bad", "dropped"], skipped: ["muted", rollout.outcome] }[rollout.kept];
  const gap = rollout.l_teacher !== null && rollout.l_student !== null ? rollout.l_teacher - rollout.l_student : null;
  const box = h("div", {});
  const details = h("details", { class: "rollout", "data-id": rollout.id, ontoggle: () => {
    if (!details.open || box.childElementCount) return;
    put(box, rolloutBody(rollout, at, gap));
    at.read(); // what somebody reads must not go when the next step comes
    write({ rollout: rollout.id, step: at.step });
  } }, h("summary", {}, h("span", { class: "mono" }, rollout.index), h("span", { class: tone }, status), h("span", { class: "num" }, `A ${signed(rollout.advantage, 2)}`),
    h("span", { class: "num" }, `${num(rollout.length)} tok`), h("span", { class: "num" }, gap === null ? "–" : `ΔL ${signed(gap, 2)}`), h("span", { class: gate[0] }, gate[1]), h("span", { class: "text", dir: "auto" }, rollout.response_text.slice(0, 300))), box);
  if (open) details.open = true;
  return details;
}

/** Tests that were not passed, those of one reason together. */
function failedTests(failed) {
  const groups = new Map();
  for (const [test, i] of failed) {
    const words = `${test.status}: ${test.reason || ""}`;
    groups.set(words, [...(groups.get(words) || []), i + 1]);
  }
  const lines = [...groups].slice(0, 5).map(([words, tests]) => h("p", { class: "bad" }, `Test${tests.length > 1 ? "s" : ""} ${tests.join(", ")} `, h("span", { dir: "auto" }, words)));
  return groups.size > 5 ? [lines, h("p", { class: "muted" }, `and ${groups.size - 5} other reasons`)] : lines;
}

function rolloutBody(rollout, at, gap) {
  const verdict = rollout.verdict || {};
  const failed = (verdict.tests || []).map((test, i) => [test, i]).filter(([test]) => test.status && test.status !== "passed");
  const facts = [["Reward", num(rollout.reward)], ["Advantage", signed(rollout.advantage)], ["L_T", num(rollout.l_teacher, 5)], ["L_S", num(rollout.l_student, 5)], ["L_T − L_S", signed(gap)], ["Kept tokens", rollout.kept_tokens === null ? "–" : `${num(rollout.kept_tokens)} of ${num(rollout.length)}`], ["Ended by", rollout.finish || "–"]];
  if (rollout.told) facts.push(["Turns", num(rollout.turns)], ["Environment", `${num(rollout.told)} tokens, not trained on`]);
  const strip = h("div", {}, h("p", { class: "muted" }, "Loading tokens…"));
  get("rollout", { run: at.run, step: at.step, id: rollout.id }).then((tokens) => put(strip, new Strip({ run: at.run, step: at.step, id: rollout.id }, tokens).element), (error) => {
    put(strip, h("div", { class: "prompt", dir: "auto" }, rollout.response_text), h("p", { class: "muted" }, error.message));
    announce(error.message);
  });
  return [
    h("p", {}, h("strong", {}, rollout.why)),
    verdict.reason ? h("p", {}, "Verdict: ", h("span", { dir: "auto" }, verdict.reason), verdict.extracted ? [" · answer read: ", h("code", { dir: "auto" }, verdict.extracted)] : null) : null,
    failedTests(failed),
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    strip,
    h("details", {}, h("summary", {}, "As text"), h("div", { class: "prompt", dir: "auto", tabindex: "0" }, rollout.response_text)),
  ];
}
