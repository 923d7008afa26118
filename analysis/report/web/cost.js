// Bytes and seconds against context, of the board's rows or of a search up to the wall.
const costSeries = () => {
  const from = $("cost-from").value;
  if (from.startsWith("wall")) {
    return site.walls[Number(from.slice(4))].series.filter((one) => !chosen.hiddenFamilies.has(one.family)).map((one) => ({
      ...one, points: one.points.map((point) => ({ context: point.context, told: point.cost[$("cost-what").value] })).filter((point) => point.told),
    })).filter((one) => one.points.length);
  }
  const methods = new Map();
  for (const row of theBoard().rows) {
    const told = row.cost[$("cost-what").value];
    if (!isShown(row)) continue;
    if (!methods.has(row.method)) methods.set(row.method, { method: row.method, family: row.family, competes: row.competes, dense: row.dense, uncached: row.uncached, hit: false, points: [] });
    const one = methods.get(row.method);
    if (told) one.points.push({ context: row.context, told, row });
    else if (row.status === "oom") one.hit = true;
  }
  return [...methods.values()].filter((one) => one.points.length);
};

// A method without a cache, far from all others, would press them into one line: it is told in words.
const FAR = 4;
const MOST_MARKS = 2000;
const apart = (series) => {
  const ends = (some) => some.flatMap((one) => one.points.map((point) => point.told[0]));
  const cached = ends(series.filter((one) => !one.uncached));
  const isFar = (one) => one.uncached && cached.length && (Math.max(...ends([one])) * FAR < Math.min(...cached) || Math.min(...ends([one])) > FAR * Math.max(...cached));
  return [series.filter(isFar), series.filter((one) => !isFar(one))];
};

const drawCost = () => {
  const what = $("cost-what").value;
  const cost = site.costs[what];
  const figure = $("cost-figure");
  let series = costSeries();
  const from = $("cost-from").value;
  const wall = from.startsWith("wall") ? site.walls[Number(from.slice(4))] : undefined;
  $("cost-words").textContent = cost.words + (wall ? ` ${wall.model} on ${wall.machine}. ${wall.words}` : "");
  $("wall-details").hidden = !wall;
  if (wall) table($("wall-table"), wall.heads, wall.rows);
  if (!series.length) { fill(figure, h("p", { class: "small" }, "Nothing here was measured.")); return; }
  const [far, near] = apart(series);
  if (far.length) $("cost-words").textContent += ` Off the scale, without a cache: ${far.map((one) => `${one.method} ${one.points[0].told[1]} to ${one.points.at(-1).told[1]}`).join("; ")}.`;
  series = near;
  const values = series.flatMap((one) => one.points.flatMap(({ told: [v, , q1, q3] }) => [v, q1, q3].filter(Number.isFinite)));
  const contexts = [...new Set(series.flatMap((one) => one.points.map((point) => point.context)))].sort((a, b) => a - b);
  const [low, high] = [Math.min(...values) / 1.15, Math.max(...values) * 1.15];
  const width = figure.clientWidth;
  const narrow = width < 560;
  const right = Math.min(narrow ? 112 : 170, 14 + Math.max(...series.map((one) => widthOf(one.method, one.dense))) + 14);
  const height = Math.round(Math.min(560, Math.max(340, width * 0.5, series.length * 14 + 80)));
  const ticks = roundTicks(low, high, cost.unit, 8);
  const few = contexts.length <= (narrow ? 4 : 9) ? contexts : contexts.filter((_, i) => i % Math.ceil(contexts.length / (narrow ? 4 : 9)) === 0);
  const flat = series.flatMap((one) => one.points.map((point, i) => ({ ...point, one, isLast: i === one.points.length - 1 })));
  const stroke = (point) => familyColor(point.one.family);
  const plot = Plot.plot({
    width, height, marginLeft: 66, marginRight: right, marginBottom: 44, marginTop: 24, style: STYLE, ariaLabel: `${cost.title} against context`,
    x: { type: "log", domain: [contexts[0] / 1.03, contexts.at(-1) * (contexts.length > 1 ? 1 : 1.03)], axis: null },
    y: { type: "log", domain: [low, high], axis: null },
    color: { type: "identity" },
    marks: [
      ...axisX(few, thousands, false), ...axisY(ticks, UNITS[cost.unit]),
      Plot.ruleX(flat.filter((point) => Number.isFinite(point.told[2])), { x: "context", y1: (point) => point.told[2], y2: (point) => point.told[3], stroke, strokeOpacity: 0.4, strokeWidth: 3 }),
      Plot.line(flat, { x: "context", y: (point) => point.told[0], z: (point) => point.one.method, stroke, strokeWidth: 1.6 }),
    ],
  });
  const [x, y] = [plot.scale("x"), plot.scale("y")];
  const svg = plot.matches("svg") ? plot : plot.querySelector("svg");
  svg.append(h("text", { class: "axis", x: 0, y: 10 }, cost.title), h("text", { class: "axis end", x: width - right, y: height - 6 }, "context (tokens, log scale)"));
  const ends = series.map((one) => one.points.at(-1));
  const heights = spread(ends.map((end) => y.apply(end.told[0])), Math.min(13, (height - 70) / series.length), 26, height - 46);
  series.forEach((one, i) => {
    if (series.length > MOST_NAMES && !one.dense) return;
    const [px, py] = [x.apply(ends[i].context), y.apply(ends[i].told[0])];
    svg.append(h("line", { class: "leader", x1: px + 6, y1: py, x2: width - right + 10, y2: heights[i], style: `stroke:${familyColor(one.family)}` }));
    svg.append(h("text", { class: one.dense ? "name bold" : "name", x: width - right + 13, y: heights[i], "text-anchor": "start", dy: "0.35em", "aria-hidden": "true" }, one.method));
    if (one.hit) svg.append(h("path", { class: "cross", d: "M-6 -6L6 6M-6 6L6 -6", transform: `translate(${px},${py})` }));
  });
  // So many marks would hide the lines: the last of each method stands for it.
  const marked = flat.length > MOST_MARKS ? flat.filter((point) => point.isLast) : flat;
  addPoints(svg, marked.map((point) => ({
    method: point.one.method, family: point.one.family, hollow: !point.one.competes, px: x.apply(point.context), py: y.apply(point.told[0]), scale: 0.75,
    tip: `${point.one.method}, ${thousands(point.context)} tokens\n${point.told[1]}${point.one.hit && point.isLast ? "\nmemory ran out beyond this context" : ""}`,
    open: point.row && (() => openRow(point.row)),
  })), `${cost.title}: ${series.length} methods`);
  fill(figure, plot);
};

const showCost = () => {
  const board = site.boards.length ? theBoard() : undefined;
  const froms = [...(board && board.rows.some((row) => Object.keys(row.cost).length) ? [["board", "the board's rows"]] : []),
    ...site.walls.map((wall, i) => [`wall${i}`, `search up to the wall: ${wall.model}, ${wall.machine}`])];
  $("cost").hidden = !froms.length;
  if (!froms.length) return;
  options($("cost-from"), froms);
  const from = $("cost-from").value;
  const there = new Set((from.startsWith("wall") ? site.walls[Number(from.slice(4))].series.flatMap((one) => one.points) : board.rows).flatMap((one) => Object.keys(one.cost)));
  options($("cost-what"), Object.entries(site.costs).filter(([key]) => there.has(key)).map(([key, cost]) => [key, cost.title]));
  drawCost();
};

const startCost = () => {
  $("cost-what").addEventListener("change", showCost);
  $("cost-from").addEventListener("change", showCost);
  listeners.push(showCost);
  watchWidth($("cost-figure"), showCost);
  showCost();
};
