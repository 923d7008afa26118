// Heat maps side by side: depth down, context across, a map a method.
const drawMap = (method, cells, contexts, depths) => {
  const size = Math.max(30, Math.min(64, Math.floor(210 / contexts.length)));
  const deep = depths.length > 9 ? 17 : 22;
  const shade = (mean) => `color-mix(in oklab, var(--family-selection) ${Math.round(mean * 100)}%, var(--wash))`;
  const plot = Plot.plot({
    width: 46 + size * contexts.length + 8, height: 22 + deep * depths.length + 26, marginLeft: 44, marginTop: 4, marginRight: 6, marginBottom: 26, style: { ...STYLE, fontSize: "11px" },
    ariaLabel: `${method}: ${cells.map(([context, depth, mean, n]) => `${thousands(context)} tokens, depth ${UNITS.share(depth)}: ${UNITS.plain(mean)} of ${n}`).join("; ")}`,
    x: { domain: contexts, label: null, tickFormat: (c) => (c >= 1024 ? `${+(c / 1024).toFixed(1)}k` : String(c)), tickSize: 0 },
    y: { domain: depths, label: null, tickFormat: (d) => `${Math.round(d * 100)}%`, tickSize: 0 },
    color: { type: "identity" },
    marks: [
      Plot.cell(cells, { x: "0", y: "1", fill: (cell) => shade(cell[2]), inset: 0.5, rx: 2 }),
      Plot.text(cells, { x: "0", y: "1", text: (cell) => (size > 34 ? `${Math.round(cell[2] * 100)}` : ""), fill: (cell) => (cell[2] > 0.55 ? "var(--paper)" : "var(--ink)"), fontSize: 10 }),
    ],
  });
  plot.setAttribute("role", "img");
  return plot;
};

const showNeedles = () => {
  const board = theBoard();
  $("needles").hidden = !board.needles.length;
  if (!board.needles.length) return;
  const named = (name) => board.columns.find((column) => column.name === name);
  options($("needle-column"), board.needles.map(({ column }) => [column, named(column).short + (named(column).aware ? " (query-aware)" : "")]));
  const { column, maps } = board.needles.find((one) => one.column === $("needle-column").value);
  const all = maps.flatMap(([, cells]) => cells);
  const [contexts, depths] = [0, 1].map((i) => [...new Set(all.map((cell) => cell[i]))].sort((a, b) => a - b));
  const rowOf = new Map(board.rows.map((row) => [row.method, row]));
  fill($("needle-maps"), maps.filter(([method]) => isShown(rowOf.get(method), named(column))).map(([method, cells]) =>
    h("figure", {}, h("figcaption", {}, marker(rowOf.get(method).family), method), drawMap(method, cells, contexts, depths))));
};

const startNeedles = () => {
  $("needle-column").addEventListener("change", showNeedles);
  listeners.push(showNeedles);
  showNeedles();
};
