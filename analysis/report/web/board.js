// The board: all rows of the chosen setting, sorted, searched and filtered by Tabulator.
let tabulator;
const hiddenFields = new Map(); // group and title -> whether the reader hid it; a field's own wish where it is not here
const fieldKey = (field) => `${field.group}\n${field.title}`;
const isHidden = (field) => hiddenFields.get(fieldKey(field)) ?? field.detail;

// What is missing stands last, whichever way the rest is sorted.
const byKey = (a, b, _rowA, _rowB, _column, direction) => {
  const [x, y] = [a?.[2] ?? null, b?.[2] ?? null];
  if (x === null || y === null) return ((x === null) - (y === null)) * (direction === "asc" ? 1 : -1);
  return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
};

const valueCell = (cell) => {
  const [text, small, , bar] = cell.getValue() ?? [""];
  return h("span", { class: "value" }, text, small ? h("small", {}, small) : null, bar === undefined || bar === null ? null : h("i", { style: `--w:${bar.toFixed(4)}` }));
};

const methodCell = (cell) => {
  const row = cell.getRow().getData();
  return h("span", { class: "method" }, marker(row.family, !row.competes),
    h("button", { type: "button", class: "link", onclick: () => openRow(row) }, row.method), row.flags.length ? h("span", { class: "flags" }, chips(row.flags)) : null);
};

// A heading as a button, so that a keyboard sorts too: its click reaches Tabulator's own heading.
const heading = (title, help) => () => h("button", { type: "button", class: "heading", title: help }, title);

const boardColumns = (board) => {
  const columns = [
    { title: "method", titleFormatter: heading("method", "The method's label; its mark says the family, hollow where it does not compete"), field: "method", frozen: true, formatter: methodCell, sorter: (a, b) => a.localeCompare(b, "en", { numeric: true }), minWidth: 130 },
    { title: "context", titleFormatter: heading("context", "Tokens of the prompt and of the answer"), field: "context", hozAlign: "right", formatter: (cell) => thousands(cell.getValue()), sorter: "number" },
  ];
  let group;
  board.fields.forEach((field, i) => {
    const column = {
      title: field.title, titleFormatter: heading(field.title, field.help), field: `values.${i}`, formatter: valueCell, sorter: byKey, hozAlign: "right",
      headerSortStartingDir: field.rising ? "asc" : "desc", visible: !isHidden(field),
    };
    if (!field.group) { columns.push(column); return; }
    if (group?.key !== field.group) {
      group = { key: field.group, title: field.group, titleFormatter: () => h("span", {}, field.group, " ", ...chips(field.flags)), columns: [] };
      columns.push(group);
    }
    group.columns.push(column);
  });
  return columns.map(({ key, ...column }) => column);
};

const haystacks = new WeakMap();
const haystack = (row) => {
  if (!haystacks.has(row)) haystacks.set(row, [row.method, row.family, ...row.tags, ...row.flags, row.parameters].join(" ").toLowerCase());
  return haystacks.get(row);
};

// Same bytes: those that were asked to meet one budget, or those that hold no more than a share; dense beside them.
const isMatched = (row, wanted) => {
  if (!wanted || row.dense) return true;
  const [what, value] = wanted.split(/:(.*)/s);
  return what === "budget" ? row.budget === value : row.share16 !== null && row.share16 <= Number(value);
};

const boardFilter = (row) => {
  const [context, wanted] = [$("board-context").value, $("board-budget").value];
  const words = $("board-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  return isShown(row) && (!context || row.context === Number(context)) && isMatched(row, wanted) && words.every((word) => haystack(row).includes(word));
};

const filterBoard = () => {
  if (!tabulator?.initialized) return;
  tabulator.setFilter(boardFilter);
  const shown = tabulator.getDataCount("active");
  const wanted = $("board-budget").value;
  const how = !wanted ? "" : wanted.startsWith("budget:") ? ` Each was asked to hold ${wanted.slice(7)}; dense is shown beside them, and what has no setting for its size is flagged "not matched".`
    : ` Each holds at most ${UNITS.share(Number(wanted.slice(5)))} of dense attention's state, both at 16 bits; dense is shown beside them.`;
  $("board-said").textContent = `${shown} of ${theBoard().rows.length} rows.${how}`;
};

const buildBoard = () => {
  const board = theBoard();
  $("board").hidden = !board.rows.length;
  options($("board-context"), [...board.contexts.map((context) => [context, thousands(context)]), ["", "all"]], board.fullest);
  const budgets = [...new Set(board.rows.map((row) => row.budget).filter(Boolean))];
  options($("board-budget"), [["", "any size"], ...budgets.map((asked) => [`budget:${asked}`, `budget ${asked}`]), ...[0.5, 0.25, 0.125].map((share) => [`most:${share}`, `at most ${UNITS.share(share)} of dense`])], "");
  const groups = new Map();
  board.fields.forEach((field, i) => groups.set(field.group, [...(groups.get(field.group) ?? []), { field, i }]));
  fill($("board-fields"), [...groups].map(([group, members]) =>
    h("fieldset", { class: "chips" }, h("legend", {}, group || "Standing"), members.map(({ field, i }) => check(field.title, !isHidden(field), (isOn) => {
      hiddenFields.set(fieldKey(field), !isOn);
      tabulator[isOn ? "showColumn" : "hideColumn"](`values.${i}`);
    })))));
  tabulator?.destroy();
  tabulator = new Tabulator("#board-table", {
    data: board.rows, columns: boardColumns(board), layout: "fitDataFill", maxHeight: "78vh", index: "index", columnHeaderVertAlign: "bottom", placeholder: "Nothing fits these filters.",
    initialFilter: [{ field: boardFilter, type: {} }], columnDefaults: { headerSortTristate: false, resizable: false },
  });
  tabulator.on("tableBuilt", filterBoard);
  drawFailures(board);
};

const drawFailures = (board) => fill($("failures"), !board.failures.length ? [] : h("details", {}, h("summary", {}, `What did not run (${board.failures.length})`),
  h("p", {}, "Running out of memory is a result, and so is a method that cannot meet its budget."),
  h("div", { class: "scroll", tabindex: 0 }, (() => {
    const node = h("table", { class: "plain" });
    table(node, ["method", "context", "pass", "status", "reason"], board.failures.map(([method, context, pass, status, reason, fits]) =>
      [method, thousands(context), pass, h("span", { class: "status" }, status), reason + (fits ? ` (largest context that fitted: ${thousands(fits)})` : "")]));
    return node;
  })())));

// On paper there is no scrolling: the rows that filters leave, as a plain table.
const printBoard = () => {
  const board = theBoard();
  const fields = board.fields.map((field, i) => ({ field, i })).filter(({ field }) => !isHidden(field));
  const node = h("table", { class: "plain" });
  table(node, ["method", "context", ...fields.map(({ field }) => (field.group ? `${field.group}: ${field.title}` : field.title))],
    tabulator.getData("active").slice(0, 500).map((row) => [row.method + (row.flags.length ? ` (${row.flags.join(", ")})` : ""), thousands(row.context), ...fields.map(({ i }) => row.values[i][0])]));
  fill($("board-print"), node);
};

const startBoard = () => {
  let shown;
  listeners.push(() => { if (shown === chosen.board) filterBoard(); else { shown = chosen.board; buildBoard(); } });
  for (const [id, name] of [["board-context", "change"], ["board-budget", "change"], ["board-search", "input"]]) $(id).addEventListener(name, filterBoard);
  addEventListener("beforeprint", printBoard);
};
