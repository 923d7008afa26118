// Quality against what the state costs, at one context: the slider's.
const frontRows = (column, kind) => theBoard().rows.filter((row) => row.points[column.name]?.x[kind]);

// The same axes at every context, so that the slider moves points and not the ground. A text that is no cache, far
// smaller than all states, does not stretch them.
const frontAxes = (column, kind) => {
  const rows = frontRows(column, kind);
  const points = rows.map((row) => row.points[column.name]);
  const sized = points.filter((point) => !point.x[kind][2]);
  const xs = (sized.length ? sized : points).flatMap((point) => point.x[kind].slice(0, 2));
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  const ys = points.flatMap((point) => point.y).filter((y) => y !== null);
  const [bottom, top] = [Math.min(...ys), Math.max(...ys)];
  const log = !column.higher && bottom > 0 && top / bottom > 8;
  const room = 0.05 * (top - bottom || Math.abs(top) || 1);
  const wide = (high / low) ** 0.06;
  const ends = log ? [bottom / 1.1, top * 1.1] : [bottom - room, top + room];
  return { low, high, x: [low / wide / 1.2, high * wide * 1.2], y: column.higher ? ends : [...ends].reverse(), log };
};

const drawFrontier = () => {
  const [column, kind, context] = [theColumn(), chosen.kind, chosen.context];
  const figure = $("front-figure");
  if (!column) return;
  const axes = frontAxes(column, kind);
  const there = frontRows(column, kind).filter((row) => row.context === context);
  const told = standing(column, context);
  $("front-words").textContent = told ? `${thousands(context)} tokens. ${told.words}` : `No method has this score at ${thousands(context)} tokens.`;
  const verdicts = told?.verdicts[kind] ?? {};
  const isBest = (row) => verdicts[row.method]?.[0] === "front";
  const at = (row) => row.points[column.name];
  const place = (row) => Math.max(at(row).x[kind][0], axes.x[0] * 1.04);
  const rows = there.filter((row) => isShown(row, column));
  const best = there.filter(isBest).map((row) => [place(row), at(row).y[0]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const stairs = best.length ? [...best, [axes.x[1], best.at(-1)[1]]] : [];
  const dense = there.filter((row) => row.dense);
  const width = figure.clientWidth;
  const narrow = width < 560;
  const height = Math.round(Math.min(560, Math.max(330, width * 0.52)));
  const plot = Plot.plot({
    width, height, marginLeft: narrow ? 44 : 62, marginRight: 12, marginBottom: 46, marginTop: 24, style: STYLE, ariaLabel: column.words,
    x: { type: "log", domain: axes.x, axis: null },
    y: { type: axes.log ? "log" : "linear", domain: axes.y, axis: null },
    marks: [
      ...axisX(roundTicks(...axes.x, kind, narrow ? 4 : 8), UNITS[kind]),
      ...axisY(axes.log ? roundTicks(...[...axes.y].sort((a, b) => a - b), "plain", 6) : d3.ticks(...axes.y, narrow ? 5 : 7), UNITS.plain),
      Plot.areaY(stairs, { x: "0", y1: axes.y[0], y2: "1", curve: "step-after", fill: "var(--line)", fillOpacity: 0.08 }),
      Plot.line(stairs, { x: "0", y: "1", curve: "step-after", stroke: "var(--line)", strokeWidth: 1.6 }),
      Plot.ruleY(dense, { y: (row) => at(row).y[0], stroke: "var(--line)", strokeDasharray: "1 3" }),
      Plot.ruleX(dense, { x: place, stroke: "var(--line)", strokeDasharray: "1 3" }),
      Plot.ruleX(rows.filter((row) => at(row).y[1] !== null), { x: place, y1: (row) => at(row).y[1], y2: (row) => at(row).y[2], stroke: (row) => familyColor(row.family), strokeOpacity: 0.5, strokeWidth: 1.5 }),
      Plot.arrow(rows.filter((row) => at(row).x[kind][1] > at(row).x[kind][0] && !at(row).x[kind][2]), { x1: place, y1: (row) => at(row).y[0], x2: (row) => at(row).x[kind][1], y2: (row) => at(row).y[0], stroke: (row) => familyColor(row.family), strokeOpacity: 0.6, strokeWidth: 1.3, headLength: 6 }),
    ],
    color: { type: "identity" },
  });
  const [x, y] = [plot.scale("x"), plot.scale("y")];
  const points = rows.map((row) => ({
    method: row.method, family: row.family, hollow: !row.competes, tip: at(row).tip, open: () => openRow(row), bold: isBest(row) ? 2 : row.dense ? 1 : 0,
    px: x.apply(place(row)), py: y.apply(at(row).y[0]), scale: row.dense ? 1.15 : 1,
    label: at(row).label + (at(row).x[kind][0] < axes.x[0] ? `, ◂ ${UNITS[kind](at(row).x[kind][0])}` : ""),
  })).sort((a, b) => a.px - b.px);
  const bars = rows.filter((row) => at(row).y[1] !== null).map((row) => [x.apply(place(row)) - 1, Math.min(y.apply(at(row).y[1]), y.apply(at(row).y[2])), x.apply(place(row)) + 1, Math.max(y.apply(at(row).y[1]), y.apply(at(row).y[2]))]);
  const grown = rows.filter((row) => at(row).x[kind][1] > at(row).x[kind][0]).map((row) => [x.apply(place(row)), y.apply(at(row).y[0]) - 3, x.apply(at(row).x[kind][1]) + 3, y.apply(at(row).y[0]) + 3]);
  const svg = plot.matches("svg") ? plot : plot.querySelector("svg");
  svg.append(
    h("text", { class: "axis", x: 0, y: 10 }, column.axis + (column.higher ? "" : " (axis reversed: up is better)")),
    h("text", { class: "axis end", x: width - 8, y: height - 6 }, narrow ? site.kinds[kind].title : site.kinds[kind].axis),
  );
  addNames(svg, points, [narrow ? 44 : 62, 16, width - 2, height - 44], [...bars, ...grown]);
  addPoints(svg, points, `${points.length} methods at ${thousands(context)} tokens`);
  fill(figure, plot);
  drawVerdicts(column, there, told);
  const marks = Object.entries(site.flags).filter(([, flag]) => flag.mark && points.some((point) => point.label.includes(flag.mark)));
  $("front-marks").textContent = [...marks.map(([name, flag]) => `${flag.mark} ${name}`), ...(points.some((point) => point.label.includes("≈")) ? ["≈ size of the memory pass, whose prompt is longer than the task's"] : []), "An arrow: what the state grew to while it was scored."].join(". ");
};

const drawVerdicts = (column, rows, told) => table(
  $("front-table"), ["method", column.short, "share16", ...Object.values(site.verdicts)],
  rows.filter((row) => isShown(row, column)).map((row) => [
    [marker(row.family, !row.competes), row.method, " ", ...chips(row.flags)],
    UNITS.plain(row.points[column.name].y[0]),
    row.points[column.name].x.share ? UNITS.share(row.points[column.name].x.share[0]) : "–",
    ...Object.keys(site.verdicts).map((cost) => told?.verdicts[cost]?.[row.method]?.[1] ?? "–"),
  ]),
);

const showFrontier = () => {
  const board = theBoard();
  const drawn = board.columns.filter((column) => column.drawn);
  $("frontier").hidden = !drawn.length;
  if (!drawn.length) return;
  options($("front-column"), drawn.map((column) => [column.name, column.short + (column.aware ? " (query-aware)" : "")]), chosen.column);
  const kinds = Object.entries(site.kinds).filter(([kind]) => frontRows(theColumn(), kind).length);
  if (!kinds.some(([kind]) => kind === chosen.kind)) chosen.kind = kinds[0][0];
  options($("front-kind"), kinds.map(([kind, { title }]) => [kind, title]), chosen.kind);
  const contexts = [...new Set(frontRows(theColumn(), chosen.kind).map((row) => row.context))].sort((a, b) => a - b);
  if (!contexts.includes(chosen.context)) chosen.context = contexts.at(-1);
  const slider = $("front-context");
  slider.max = contexts.length - 1;
  slider.value = contexts.indexOf(chosen.context);
  slider.disabled = contexts.length < 2;
  slider.setAttribute("aria-valuetext", `${thousands(chosen.context)} tokens`);
  slider.oninput = () => { chosen.context = contexts[slider.value]; showFrontier(); };
  fill($("front-contexts"), contexts.map((context, i) => h("option", { value: i, label: thousands(context) })));
  $("front-context-said").textContent = `${thousands(chosen.context)} tokens`;
  drawFrontier();
};

const startFrontier = () => {
  $("front-column").addEventListener("change", (event) => { chosen.column = event.target.value; showFrontier(); });
  $("front-kind").addEventListener("change", (event) => { chosen.kind = event.target.value; showFrontier(); });
  listeners.push(showFrontier);
  watchWidth($("front-figure"), () => showFrontier());
};
