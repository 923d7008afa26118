// A section for each method, one shown at a time; #method/NAME is its address.
const link = (paper) => {
  const found = paper.match(/arXiv:?\s?(\d{4}\.\d{4,5})/);
  return found ? [paper, " (", h("a", { href: `https://arxiv.org/abs/${found[1]}`, rel: "noreferrer" }, "arXiv"), ")"] : [paper];
};

const paragraphs = (text) => text.split(/\n\s*\n/).map((part) => (/^\s{2,}/m.test(part) ? h("pre", { class: "math" }, part) : h("p", {}, part.replace(/\s+/g, " "))));

const lossTable = (name) => {
  const board = theBoard();
  const rows = board.rows.filter((row) => row.method === name);
  const picked = board.fields.map((field, i) => ({ field, i })).filter(({ field, i }) => (field.group ? !field.detail : field.title === "front") && rows.some((row) => row.values[i][0] && row.values[i].length > 2));
  const node = h("table", { class: "plain numbers" });
  table(node, ["context", ...picked.map(({ field }) => (field.group ? `${field.group}: ${field.title}` : field.title))],
    rows.map((row) => [thousands(row.context), ...picked.map(({ i }) => { const [text, small] = row.values[i]; return small ? [text, h("small", {}, small)] : text; })]));
  return h("div", { class: "scroll", tabindex: 0 }, node);
};

// What it holds against what dense holds: both lines over the contexts that were measured.
const stateCurve = (name, width) => {
  const rows = theBoard().rows.filter((row) => (row.method === name || row.dense) && row.cost.live);
  if (!rows.some((row) => row.method === name)) return null;
  const values = rows.map((row) => row.cost.live[0]);
  const [low, high] = [Math.min(...values) / 1.2, Math.max(...values) * 1.2];
  const contexts = [...new Set(rows.map((row) => row.context))].sort((a, b) => a - b);
  const last = rows.filter((row) => row.context === Math.max(...rows.filter((other) => other.method === row.method).map((other) => other.context)));
  return Plot.plot({
    width, height: 250, marginLeft: 66, marginRight: 96, marginBottom: 34, marginTop: 24, style: STYLE, ariaLabel: rows.map((row) => `${row.method} at ${thousands(row.context)} tokens: ${row.cost.live[1]}`).join("; "),
    x: { type: "log", domain: [contexts[0] / 1.05, contexts.at(-1) * 1.05], axis: null },
    y: { type: "log", domain: [low, high], axis: null },
    color: { type: "identity" },
    marks: [
      ...axisX(contexts.filter((_, i) => i % Math.ceil(contexts.length / 6) === 0), thousands, false), ...axisY(roundTicks(low, high, "bytes", 6), UNITS.bytes),
      Plot.line(rows, { x: "context", y: (row) => row.cost.live[0], z: "method", stroke: (row) => familyColor(row.family), strokeWidth: 1.8 }),
      Plot.dot(rows, { x: "context", y: (row) => row.cost.live[0], fill: (row) => familyColor(row.family), r: 3.5 }),
      Plot.text(last, { x: "context", y: (row) => row.cost.live[0], text: "method", textAnchor: "start", dx: 8, fill: "var(--ink)" }),
    ],
  });
};

const wrongAnswers = (answers) => (answers.length ? answers.map((answer) => h("blockquote", {},
  h("p", { class: "small" }, `${answer.task} at ${thousands(answer.context)} tokens${answer.depth === null || answer.depth === undefined ? "" : `, hidden at ${UNITS.share(answer.depth)} of the text`}; ${answer.of[0]} of ${answer.of[1]} were wrong`),
  facts([["asked for", answer.asked], ["right", answer.right], ["it said", answer.said]]))) : [h("p", { class: "small" }, "No answer of it is recorded that was wrong.")]);

const showMethod = () => {
  const names = Object.keys(site.methods);
  $("methods").hidden = !names.length;
  if (!names.length) return;
  options($("method-pick"), names.map((name) => [name, name]));
  const name = $("method-pick").value;
  const about = site.methods[name];
  const board = theBoard();
  const here = about.boards.find((one) => one.model === board.model && one.machine === board.machine) ?? about.boards[0];
  const curve = stateCurve(name, Math.min(560, $("method").clientWidth || 560));
  fill(
    $("method"),
    h("h3", { class: "title" }, marker(about.family), name, " ", ...chips(about.flags)),
    about.description ? h("div", { class: "words" }, paragraphs(about.description)) : h("p", {}, `A method of the family ${about.family}.`),
    facts([["cost", about.cost], ["family", about.family], ["tags", about.tags.join(", ")], ["paper", about.paper && h("span", {}, link(about.paper))], ["written in", about.source],
      ["parameters", Object.entries(about.parameters).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")],
      ["properties", about.properties?.join(", ")]]),
    curve ? [h("h4", {}, "What it holds against what dense holds: live bytes of state by context (tokens)"), h("figure", {}, curve)] : null,
    h("h4", {}, `On ${board.model}, ${board.machine}`),
    board.rows.some((row) => row.method === name) ? lossTable(name) : h("p", { class: "small" }, "Not measured in what is shown above; choose another model or machine there."),
    h("h4", {}, "Where it fails"), wrongAnswers(here.wrong),
    h("h4", {}, "Run it again"), h("pre", { tabindex: 0 }, h("code", {}, here.commands.join("\n"))),
  );
};

const goToMethod = () => {
  const found = location.hash.match(/^#method\/(.+)$/);
  let name;
  try { name = found && decodeURIComponent(found[1]); } catch { return; }
  if (!name || !Object.hasOwn(site.methods, name)) return;
  $("method-pick").value = name;
  showMethod();
  $("methods").scrollIntoView();
};

const startMethods = () => {
  $("method-pick").addEventListener("change", (event) => {
    history.replaceState(null, "", `#method/${encodeURIComponent(event.target.value)}`);
    showMethod();
  });
  addEventListener("hashchange", goToMethod);
  listeners.push(showMethod);
  showMethod();
};
