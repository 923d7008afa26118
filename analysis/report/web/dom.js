// Elements are made of nodes and text, never of HTML, so that text from records stays text.
const SVG = new Set(["svg", "path", "g", "text", "line", "circle"]);
const $ = (id) => document.getElementById(id);

const h = (name, attributes = {}, ...children) => {
  const node = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
};

const fill = (node, ...children) => node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));

// [[value, words], ...] as the options of a select, keeping what was chosen where it is still there.
const options = (select, choices, chosen) => {
  const wanted = chosen ?? select.value;
  fill(select, choices.map(([value, words]) => h("option", { value }, words)));
  if (choices.some(([value]) => String(value) === String(wanted))) select.value = wanted;
  select.disabled = choices.length < 2;
};

const table = (node, heads, rows) => fill(
  node,
  h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
  h("tbody", {}, rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first), cells.map((cell) => h("td", {}, cell))))),
);

const thousands = (n) => Number(n).toLocaleString("en-US");
const familyColor = (family) => `var(--family-${site.families[family]?.color ?? "other"})`;

const marker = (family, hollow = false) => h(
  "svg", { class: "marker", viewBox: "-6 -6 12 12", "aria-hidden": "true" },
  h("path", { d: site.families[family].path, fill: hollow ? "none" : familyColor(family), stroke: familyColor(family), "stroke-width": hollow ? 1.8 : 0 }),
);

const chips = (flags) => flags.map((flag) => h("span", { class: flag === "bounded" ? "chip plain" : "chip", title: site.flags[flag]?.words }, flag));
