// Smoothing and joining of curves that were thinned out by the service.

/**
 * Exponential mean over about `width` steps, by the distance between steps, so that a thinned-out curve and the whole one
 * look alike; divided by the weight so far, so that it does not start at 0.
 */
export function smooth(x, y, width) {
  if (width <= 1) return y;
  const out = new Array(y.length).fill(null);
  let sum = 0, weight = 0, last = null;
  for (let i = 0; i < y.length; i++) {
    if (y[i] === null || y[i] === undefined) continue;
    const decay = last === null ? 0 : Math.exp(-(x[i] - last) / width);
    sum = sum * decay + y[i] * (1 - Math.exp(-1 / width));
    weight = weight * decay + (1 - Math.exp(-1 / width));
    out[i] = sum / weight;
    last = x[i];
  }
  return out;
}

/** Curves over different steps on one axis: [[x, [y, y]], ...] -> [x, y, y, ...], null where a curve has no such step. */
export function join(tables) {
  const all = new Set();
  for (const [x] of tables) for (const value of x) all.add(value);
  const axis = [...all].sort((a, b) => a - b);
  const at = new Map(axis.map((value, i) => [value, i]));
  const columns = [];
  for (const [x, ys] of tables) {
    for (const y of ys) {
      const column = new Array(axis.length).fill(null);
      for (let i = 0; i < x.length; i++) column[at.get(x[i])] = y[i] ?? null;
      columns.push(column);
    }
  }
  return [axis, ...columns];
}
