// Where the page's answers come from: the service, or in an exported report the page itself.

const RETRY_MS = 5000;
const element = document.getElementById("embedded");
const embedded = element ? JSON.parse(element.textContent) : null;

export const offline = embedded !== null;

async function fetched(path, params) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(key, one);
    }
  }
  const answer = await fetch(`api/${path}?${query}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || answer.statusText);
  return body;
}

/** GET api/<path>; throws an Error with the service's own words. */
export async function get(path, params = {}) {
  return offline ? stored(path, params) : fetched(path, params);
}

/** The address of a file to download. */
export function address(path, params) {
  return `api/${path}?${new URLSearchParams(params)}`;
}

function stored(path, params) {
  const of = embedded.of[params.run] || {};
  if (path === "runs") return embedded.runs;
  if (path === "series") return part(of.series, params);
  if (path === "rollouts") return filtered(of.rollouts, params);
  if (path === "rollout") return found(of.rollout, params.id);
  if (path === "support") {
    const all = found(of.support, params.id);
    return { first: params.first, rows: all.rows.slice(params.first, params.first + params.count) };
  }
  if (!(path in of)) throw new Error("this is not in the exported page");
  return of[path];
}

function found(table, key) {
  if (!table || !(key in table)) throw new Error("the exported page holds the tokens of some rollouts only; rgopd watch shows all that are kept");
  return table[key];
}

function part(series, { name = [], low = 0, high = Infinity }) {
  const cut = (block, prefix) => {
    const at = block.x.map((x, i) => i).filter((i) => block.x[i] >= low && block.x[i] <= high);
    const pick = (columns = {}) => Object.fromEntries(name.filter((n) => n.startsWith("clock/") === (prefix !== ""))
      .map((n) => n.slice(prefix.length)).filter((n) => n in columns).map((n) => [n, at.map((i) => columns[n][i])]));
    return { x: at.map((i) => block.x[i]), exact: block.exact, y: pick(block.y), low: pick(block.low), high: pick(block.high) };
  };
  return { ...series, step: cut(series.step, ""), clock: cut(series.clock, "clock/") };
}

function filtered(all, { step, domain = "", sign = "", kept = "", verdict = "", text = "" }) {
  const at = all.by_step[step ?? all.steps[all.steps.length - 1]] || all.by_step[all.steps[all.steps.length - 1]];
  if (!at) throw new Error("nothing is kept of that step in the exported page");
  const wanted = text.toLowerCase();
  const fits = (group, r) => (!sign || r.sign === sign) && (!kept || r.kept === kept) && (!verdict || (r.verdict || {}).status === verdict)
    && (!wanted || (group.prompt_text + "\n" + r.response_text).toLowerCase().includes(wanted));
  const groups = at.groups.filter((g) => !domain || g.domain === domain)
    .map((g) => ({ ...g, rollouts: g.rollouts.filter((r) => fits(g, r)) })).filter((g) => g.rollouts.length);
  return { ...at, steps: all.steps, groups, shown: groups.reduce((sum, g) => sum + g.rollouts.length, 0) };
}

/** Follow runs; `heard(kind, data)` for each event, `changed(state)` with live, lost or offline. Returns a function that ends it. */
export function follow(runs, heard, changed) {
  if (offline) {
    changed("offline");
    return () => {};
  }
  const query = new URLSearchParams(runs.map((run) => ["run", run]));
  let source = null, again = 0;
  const open = () => {
    source = new EventSource(`api/events?${query}`);
    for (const kind of ["runs", "more", "now"]) source.addEventListener(kind, (event) => heard(kind, JSON.parse(event.data)));
    source.onopen = () => changed("live");
    source.onerror = () => {
      changed("lost");
      // The browser tries again by itself after a cut, but not after an answer such as 503.
      if (source.readyState === EventSource.CLOSED) again = setTimeout(open, RETRY_MS);
    };
  };
  open();
  return () => {
    clearTimeout(again);
    source.close();
  };
}
