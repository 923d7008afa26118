// The trained track: what is recalled against the bytes that the state was measured to hold.
const drawTrained = (track, figure) => {
  const width = figure.clientWidth;
  const narrow = width < 560;
  const height = Math.round(Math.min(480, Math.max(320, width * 0.45)));
  const [xs, ys] = [track.points.map((point) => point.x), track.points.map((point) => point.y)];
  const ends = [Math.min(...xs) / 1.4, Math.max(...xs) * 1.6];
  const room = 0.06 * (Math.max(...ys) - Math.min(...ys) || 1);
  const between = [Math.min(...ys) - room, Math.max(...ys) + room];
  const plot = Plot.plot({
    width, height, marginLeft: narrow ? 44 : 62, marginRight: 12, marginBottom: 46, marginTop: 24, style: STYLE, ariaLabel: `${track.title}: ${track.primary} against bytes of state`,
    x: { type: "log", domain: ends, axis: null }, y: { domain: track.higher ? between : [...between].reverse(), axis: null },
    marks: [...axisX(roundTicks(...ends, "bytes", narrow ? 4 : 8), UNITS.bytes), ...axisY(d3.ticks(...between, 6), UNITS.plain)],
  });
  const [x, y] = [plot.scale("x"), plot.scale("y")];
  const points = track.points.map((point) => ({ ...point, px: x.apply(point.x), py: y.apply(point.y), label: point.method })).sort((a, b) => a.px - b.px);
  plot.append(h("text", { class: "axis", x: 0, y: 10 }, `mean ${track.primary}${track.higher ? "" : " (axis reversed: up is better)"}`), h("text", { class: "axis end", x: width - 8, y: height - 6 }, "bytes of state, measured (log scale)"));
  addNames(plot, points, [narrow ? 44 : 62, 16, width - 2, height - 44], []);
  addPoints(plot, points, `${points.length} trained models`);
  fill(figure, plot);
};

const startTrained = () => site.trained.forEach((track, i) => {
  const figure = $(`trained-figure-${i}`);
  figure.hidden = !track.points.length;
  if (!track.points.length) return;
  drawTrained(track, figure);
  watchWidth(figure, () => drawTrained(track, figure));
});
