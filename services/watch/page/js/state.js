// What the address bar and the browser remember: tab, runs, step; theme.

const listeners = new Set();

/** The part after #: { tab, runs: [...], step, rollout }. */
export function read() {
  const [tab, query] = location.hash.replace(/^#/, "").split("?");
  const params = new URLSearchParams(query || "");
  return { tab: tab || "now", runs: params.getAll("run"), step: params.get("step"), rollout: params.get("rollout") };
}

export function write(change) {
  const next = { ...read(), ...change };
  const params = new URLSearchParams();
  for (const run of next.runs) params.append("run", run);
  if (next.step !== null && next.step !== undefined) params.set("step", next.step);
  if (next.rollout) params.set("rollout", next.rollout);
  const query = params.toString();
  const hash = "#" + next.tab + (query ? "?" + query : "");
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // storage is refused to some file:// pages
  }
}

export function theme() {
  return document.documentElement.dataset.theme;
}

export function setTheme(name, keep = true) {
  document.documentElement.dataset.theme = name;
  if (keep) {
    try {
      localStorage.setItem("rgopd-theme", name);
    } catch {
      // only this page then
    }
  }
  for (const listener of listeners) listener(name);
}

/** The system's choice until somebody presses the button. */
export function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(remembered("rgopd-theme") || (dark.matches ? "dark" : "light"), false);
  dark.addEventListener("change", () => remembered("rgopd-theme") || setTheme(dark.matches ? "dark" : "light", false));
}

export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

/** The colour of the i-th run or series. */
export function tint(i) {
  return color("c" + (i % 8));
}
