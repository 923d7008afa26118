// Which board is shown, and which of its methods.
const MODEL_KEYS = ["model", "machine", "protocol"];

const within = (keys) => site.boards.filter((board) => keys.every((key) => board[key] === $(`pick-${key}`).value));

const pickBoard = (from) => {
  MODEL_KEYS.forEach((key, i) => {
    if (i <= from) return;
    const there = within(MODEL_KEYS.slice(0, i));
    options($(`pick-${key}`), [...new Set(there.map((board) => board[key]))].map((value) => [value, value]));
  });
  chosen.board = site.boards.indexOf(within(MODEL_KEYS)[0]);
  const board = theBoard();
  chosen.context = board.fullest;
  chosen.column = (board.columns.find((column) => column.drawn) ?? board.columns[0])?.name ?? "";
  showFilters();
  changed();
};

const toggle = (set, value, isOn) => { if (isOn) set.add(value); else set.delete(value); changed(); };

const check = (words, isOn, listen) => h("label", { class: "check" }, h("input", { type: "checkbox", checked: isOn, onchange: (event) => listen(event.target.checked) }), words);

const showFilters = () => {
  const board = theBoard();
  const there = (pick) => new Set(board.rows.flatMap(pick));
  const families = there((row) => [row.family]);
  fill($("filter-families"), Object.keys(site.families).filter((family) => families.has(family)).map((family) =>
    check([marker(family), family], !chosen.hiddenFamilies.has(family), (isOn) => toggle(chosen.hiddenFamilies, family, !isOn))));
  const flags = there((row) => row.flags);
  if (board.columns.some((column) => column.aware) && board.rows.some((row) => row.sensitive)) flags.add("query-aware");
  fill($("filter-flags"), Object.keys(site.flags).filter((flag) => flags.has(flag)).map((flag) =>
    check(chips([flag]), !chosen.hiddenFlags.has(flag), (isOn) => toggle(chosen.hiddenFlags, flag, !isOn))));
  const tags = [...there((row) => row.tags)].sort();
  for (const tag of chosen.tags) if (!tags.includes(tag)) chosen.tags.delete(tag);
  fill($("filter-tags"), tags.map((tag) => check(tag, chosen.tags.has(tag), (isOn) => toggle(chosen.tags, tag, isOn))));
  fill($("notes"), board.notes.map((note) => h("p", { class: "note" }, note)));
  fill($("machine"), h("p", {}, board.said.join(" ")));
};

const startFilters = () => {
  MODEL_KEYS.forEach((key, i) => $(`pick-${key}`).addEventListener("change", () => pickBoard(i)));
  listeners.push(() => {
    const board = theBoard();
    const names = (rows) => new Set(rows.map((row) => row.method)).size;
    $("facts").textContent = `${names(board.rows.filter((row) => isShown(row)))} of ${names(board.rows)} methods shown, ${board.contexts.length} contexts, ${board.records} records.`;
  });
  pickBoard(-1);
};
