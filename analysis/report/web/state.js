// What the reader has chosen. One board is shown at a time: what two boards hold may not be put side by side.
let site;
const chosen = { board: 0, column: "", kind: "share", context: 0, hiddenFamilies: new Set(), hiddenFlags: new Set(), tags: new Set() };
const listeners = [];
const changed = () => listeners.forEach((listen) => listen());

const theBoard = () => site.boards[chosen.board];
const theColumn = () => theBoard().columns.find((column) => column.name === chosen.column);

// Whether filters leave a row; a column that saw the question makes methods that look at queries query-aware.
const isShown = (row, column) =>
  !chosen.hiddenFamilies.has(row.family) &&
  !row.flags.some((flag) => chosen.hiddenFlags.has(flag)) &&
  !(column?.aware && row.sensitive && chosen.hiddenFlags.has("query-aware")) &&
  [...chosen.tags].every((tag) => row.tags.includes(tag));

const standing = (column, context) => theBoard().standings.find((one) => one.column === column.name && one.context === context);

const read = async () => {
  const inside = $("data");
  if (inside) return JSON.parse(inside.textContent);
  const answer = await fetch("data/page.json");
  if (!answer.ok) throw new Error(`data/page.json: ${answer.status}`);
  return answer.json();
};
