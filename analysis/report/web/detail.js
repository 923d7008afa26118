// The full record of a row: every column in words, and what the columns do not hold.
const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
  .map(([title, value]) => h("div", {}, h("dt", {}, title), h("dd", {}, value))));

const openRow = (row) => {
  const board = theBoard();
  fill($("record-title"), marker(row.family, !row.competes), `${row.method}, ${thousands(row.context)} tokens`);
  const groups = new Map();
  board.fields.forEach((field, i) => {
    const [text, small] = row.values[i];
    if (!text) return;
    const title = field.group || "Standing";
    if (!groups.has(title)) groups.set(title, []);
    groups.get(title).push([field.title, small ? `${text} (${small})` : text]);
  });
  fill(
    $("record-body"),
    h("p", {}, chips(row.flags)),
    facts([
      ["model", board.model], ["machine", board.machine], ["family", row.family], ["tags", row.tags.join(", ")], ["parameters", row.parameters],
      ["budget asked", row.budget], ["status", row.status], ["largest context that fitted", row.fits && thousands(row.fits)],
    ]),
    [...groups].map(([title, pairs]) => [h("h3", {}, title), facts(pairs)]).flat(),
    h("h3", {}, "Measured"),
    h("p", { class: "small" }, board.said.join(" ")),
    h("p", { class: "small" }, `Records ${row.records.join(", ")}`),
    h("p", {}, h("a", { href: `#method/${encodeURIComponent(row.method)}`, onclick: () => $("record").close() }, `All of ${row.method}`)),
  );
  $("record").showModal();
};
