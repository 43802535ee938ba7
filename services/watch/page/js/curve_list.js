// Which curves there are, in which order, and what each one says about a run.

const signs = (stem) => ["positive", "zero", "negative"].map((sign, i) => ({ name: `${stem}_${sign}`, label: ["A > 0", "A = 0", "A < 0"][i] }));
const one = (name) => [{ name, label: "" }];

export const CURVES = [
  ["The paper's Figure 2", [
    { id: "kept_fraction", title: "Kept token fraction", range: [0, 1], series: one("kept_fraction"), help: "Share of response tokens that the gate lets into the loss." },
    { id: "response_length_mean", title: "Mean response length", unit: "tokens", series: one("response_length_mean"), help: "Doubling, or a third of the start, is a runaway or a collapse." },
    { id: "loss", title: "Loss", unit: "nats a token", series: one("loss"), help: "Gated objective over kept tokens (Eq. 3). Falling is not yet learning: look at the evaluation." },
  ]],
  ["Reward and evaluation", [
    { id: "evaluation", title: "Accuracy on held-out problems", range: [0, 1], evaluation: true, help: "Greedy; the band is Wilson's 95% interval." },
    { id: "reward_mean", title: "Mean reward", series: one("reward_mean"), help: "Over rollouts that could be judged." },
    { id: "pass_rate", title: "Pass rate", range: [0, 1], series: one("pass_rate"), help: "passed / (passed + failed) among the samples." },
    { id: "verdicts", title: "Verdicts", unit: "rollouts", series: ["passed", "failed", "error"].map((v) => ({ name: "verdicts/" + v, label: v })), help: "An error carries no reward; many of them make a biased sample." },
  ]],
  ["Gate and teacher", [
    { id: "kept_sign", title: "Kept by sign of A", range: [0, 1], series: signs("kept_fraction"), help: "Near 0 on one side: the gate starves, and the student learns nothing from its successes or failures." },
    { id: "gap_sign", title: "Teacher − student by sign of A", unit: "nats a token", series: signs("teacher_gap"), help: "Mean log πT − log πθ of the sampled tokens. Below 0 is usual: a student likes its own samples best." },
    { id: "above_sign", title: "Rollouts with L_T > L_S", range: [0, 1], series: signs("teacher_above"), help: "Where the teacher likes the whole response better than the student does." },
    { id: "tokens_sign", title: "Tokens by sign of A", unit: "tokens", series: signs("tokens"), help: "Much A = 0: prompts too easy or too hard to tell anything." },
  ]],
  ["Policy", [
    { id: "entropy", title: "Entropy", unit: "nats a token", series: one("entropy"), help: "Under a quarter of the start: the rollouts of a group grow alike." },
    { id: "grad_norm", title: "Gradient norm", series: one("grad_norm"), help: "Before clipping." },
    { id: "importance", title: "Importance weights", series: [{ name: "importance_mean", label: "mean" }, { name: "importance_effective_fraction", label: "effective share" }, { name: "importance_truncated_fraction", label: "truncated share" }], help: "πθ / μ: 1 on policy. A low effective share: max_staleness is too high." },
    { id: "behaviour_drift", title: "Drift from the sampling policy", unit: "nats a token", series: one("behaviour_drift"), help: "Mean |log πθ − log μ|. On policy over 0.05: sampler and trainer disagree." },
    { id: "staleness", title: "Staleness", unit: "versions", series: [{ name: "staleness_mean", label: "mean" }, { name: "staleness_max", label: "max" }] },
    { id: "lr", title: "Learning rate", series: one("lr") },
    { id: "truncated_fraction", title: "Truncated responses", range: [0, 1], series: one("truncated_fraction"), help: "Cut at max_new_tokens." },
  ]],
  ["Speed", [
    { id: "seconds", title: "Seconds by stage", unit: "s a step", series: [["collect_s", "collect"], ["sampling_s", "waiting for sampling"], ["verifying_s", "… verifying"], ["scoring_s", "… scoring"], ["train_s", "train"], ["publish_s", "publish"]].map(([n, label]) => ({ name: "clock/" + n, label })) },
    { id: "tokens_per_s", title: "Tokens a second", series: one("clock/tokens_per_s") },
    { id: "memory", title: "Memory of rank 0", unit: "bytes", series: [{ name: "clock/rss_bytes", label: "process" }, { name: "clock/gpu_bytes", label: "GPU peak" }] },
  ]],
];

/** Curves of columns that no list names: by domain, and whatever an objective or a later version adds. */
export function others(names) {
  const listed = new Set(CURVES.flatMap(([, charts]) => charts.flatMap((chart) => (chart.series || []).map((s) => s.name))));
  const rest = names.filter((name) => !listed.has(name));
  const families = new Map();
  const alone = [];
  for (const name of rest) {
    const cut = name.indexOf("/");
    if (cut < 0 || name.startsWith("clock/")) alone.push(name);
    else families.set(name.slice(0, cut), [...(families.get(name.slice(0, cut)) || []), name]);
  }
  const charts = [...families].map(([family, members]) => ({
    id: family, title: family.replaceAll("_", " "), series: members.slice(0, 16).map((name) => ({ name, label: name.slice(family.length + 1) })),
    help: members.length > 16 ? `The first 16 of ${members.length}; the CSV has all.` : "",
  }));
  return [...charts, ...alone.map((name) => ({ id: name, title: name.replace("clock/", "").replaceAll("_", " "), series: [{ name, label: "" }] }))];
}
