// What charts share: axes by Plot, marks that a pointer and a keyboard can reach, names that do not overlap.
const UNITS = {
  share: (v) => (v >= 0.0995 ? `${+(v * 100).toPrecision(3)}%` : `${+(v * 100).toPrecision(2)}%`),
  bytes: (v) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const i = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log2(Math.max(v, 1)) / 10)));
    return `${+(v / 1024 ** i).toPrecision(3)} ${units[i]}`;
  },
  seconds: (v) => (v >= 1 ? `${+v.toPrecision(3)} s` : v >= 1e-3 ? `${+(v * 1e3).toPrecision(3)} ms` : `${+(v * 1e6).toPrecision(3)} µs`),
  plain: (v) => String(+v.toPrecision(4)),
};

// Round numbers on a logarithmic axis: powers of two of bytes, 1, 2 and 5 of others; not more than fit.
const roundTicks = (low, high, unit, most) => {
  const found = [];
  if (unit === "bytes") {
    const [first, last] = [Math.ceil(Math.log2(low)), Math.floor(Math.log2(high))];
    const step = Math.max(1, Math.ceil((last - first + 1) / most));
    for (let k = first; k <= last; k += step) found.push(2 ** k);
    return found;
  }
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    found.length = 0;
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) {
      for (const step of steps) if (step * 10 ** k >= low && step * 10 ** k <= high) found.push(step * 10 ** k);
    }
    if (found.length <= most) break;
  }
  return found.length > 1 ? found : [low, high];
};

const STYLE = { background: "transparent", color: "var(--muted)", fontFamily: "inherit", fontSize: "12px", overflow: "visible" };

// Axes with every tick named: on a logarithmic scale Plot would leave some unnamed.
const axisX = (ticks, words, grid = true) => [...(grid ? [Plot.gridX(ticks, { stroke: "var(--grid)", strokeOpacity: 1 })] : []), Plot.axisX(ticks, { text: words, label: null, tickSize: 4 })];
const axisY = (ticks, words) => [Plot.gridY(ticks, { stroke: "var(--grid)", strokeOpacity: 1 }), Plot.axisY(ticks, { text: words, label: null, tickSize: 0 })];

const tip = (node, words) => {
  const box = $("tip");
  box.textContent = words;
  box.hidden = false;
  const at = node.getBoundingClientRect();
  const size = box.getBoundingClientRect();
  box.style.left = `${Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), Math.max(8, innerWidth - size.width - 8))}px`;
  const above = at.top - size.height - 10;
  box.style.top = `${above > 8 ? above : at.bottom + 10}px`;
};

const startTips = () => {
  const show = (event) => {
    const point = event.target.closest?.("[data-tip]");
    if (point) tip(point, point.dataset.tip);
  };
  const hide = () => { $("tip").hidden = true; };
  for (const name of ["pointerover", "focusin"]) document.addEventListener(name, show);
  for (const name of ["pointerout", "focusout"]) document.addEventListener(name, hide);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true });
};

// Marks over a plot, one stop of Tab for all: arrows go from one to the next.
const addPoints = (svg, points, words) => {
  const nodes = points.map((point) => h(
    "path",
    {
      class: "point", d: site.families[point.family].path, transform: `translate(${point.px},${point.py}) scale(${point.scale ?? 1})`,
      fill: point.hollow ? "var(--paper)" : familyColor(point.family), stroke: point.hollow ? familyColor(point.family) : "var(--paper)",
      "stroke-width": point.hollow ? 1.6 : 0.9, tabindex: -1, role: point.open ? "button" : "img", "aria-label": point.tip, "data-tip": point.tip,
      "data-method": point.method, onclick: point.open,
    },
  ));
  const group = h("g", { role: "group", "aria-label": words }, nodes);
  nodes[0]?.setAttribute("tabindex", 0);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const i = nodes.indexOf(event.target);
    if (step && i >= 0) {
      event.preventDefault();
      event.target.setAttribute("tabindex", -1);
      const next = nodes[(i + step + nodes.length) % nodes.length];
      next.setAttribute("tabindex", 0);
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      points[i]?.open?.();
    }
  });
  svg.append(group);
};

const pen = document.createElement("canvas").getContext("2d");
const widthOf = (text, bold) => {
  pen.font = `${bold ? "600 " : ""}12px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
};

const PLACES = [[9, 0, "start"], [-9, 0, "end"], [0, -13, "middle"], [0, 14, "middle"], [9, -11, "start"], [9, 12, "start"], [-9, -11, "end"], [-9, 12, "end"],
  [20, -24, "start"], [20, 26, "start"], [-20, -24, "end"], [-20, 26, "end"], [30, -38, "start"], [-30, 40, "end"]];

// Of more points only those on the front are named; the others say their names when they are pointed at.
const MOST_NAMES = 80;

// Names beside points: each where it covers least; one that must cover another is left to the tip, unless it is bold.
const addNames = (svg, points, frame, obstacles) => {
  const taken = [...obstacles, ...points.map((p) => [p.px - 5, p.py - 5, p.px + 5, p.py + 5])];
  const over = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const named = points.length > MOST_NAMES ? points.filter((point) => point.bold) : points;
  for (const point of [...named].sort((a, b) => (b.bold ?? 0) - (a.bold ?? 0) || a.px - b.px)) {
    const width = widthOf(point.label, point.bold);
    let best;
    for (const [dx, dy, anchor] of PLACES) {
      const [x, y] = [point.px + dx, point.py + dy];
      const left = anchor === "start" ? x : anchor === "end" ? x - width : x - width / 2;
      const box = [left, y - 7, left + width, y + 7];
      if (box[0] < frame[0] || box[2] > frame[2] || box[1] < frame[1] || box[3] > frame[3]) continue;
      const cost = taken.reduce((sum, other) => sum + over(box, other), 0);
      if (!best || cost < best.cost) best = { x, y, anchor, box, cost, far: Math.abs(dx) >= 20 };
      if (cost === 0) break;
    }
    if (!best || (best.cost > 12 && !point.bold)) continue;
    taken.push(best.box);
    if (best.far) svg.append(h("line", { class: "leader", x1: point.px, y1: point.py, x2: best.x, y2: best.y }));
    svg.append(h("text", { class: point.bold ? "name bold" : "name", x: best.x, y: best.y, "text-anchor": best.anchor, dy: "0.35em", "aria-hidden": "true" }, point.label));
  }
};

// Heights spread so that no two names at the ends of lines are nearer than `gap`, none below `high`.
const spread = (wanted, gap, low, high) => {
  const order = wanted.map((y, i) => [y, i]).sort((a, b) => a[0] - b[0]);
  const found = [];
  order.forEach(([y], k) => { found[k] = Math.max(y, low, k ? found[k - 1] + gap : low); });
  let roof = high;
  for (let k = found.length - 1; k >= 0; k--) { found[k] = Math.min(found[k], roof); roof = found[k] - gap; }
  const heights = [];
  order.forEach(([, i], k) => { heights[i] = found[k]; });
  return heights;
};

// A figure is drawn anew when its room has another width, and only where it can be seen.
const watchWidth = (node, draw) => {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(node.clientWidth - width) > 1) { width = node.clientWidth; draw(); }
  }).observe(node);
};
