"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Light and dark: the reader's system decides until the button does.
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const press = (button) => all("button", button.parentElement).forEach((b) => b.setAttribute("aria-pressed", String(b === button)));

  // Which score, and which bytes, the fronts show.
  for (const section of all("[data-tabs]")) {
    const pressed = all(".switch button[aria-pressed=true]", section);
    const chosen = { front: "0", ...Object.fromEntries(pressed.map((b) => [b.dataset.axis, b.dataset.to])) };
    for (const button of all(".switch button", section)) {
      button.addEventListener("click", () => {
        press(button);
        chosen[button.dataset.axis] = button.dataset.to;
        for (const panels of all(".panels", section)) {
          panels.hidden = panels.dataset.front !== chosen.front || panels.dataset.kind !== chosen.kind;
        }
      });
    }
  }

  for (const section of all("[data-board]")) {
    const table = section.querySelector("table");
    const body = table.tBodies[0];
    for (const button of all(".switch button", section)) {
      button.addEventListener("click", () => {
        press(button);
        table.classList.toggle("filtered", Boolean(button.dataset.context));
        for (const row of body.rows) row.hidden = Boolean(button.dataset.context) && row.dataset.context !== button.dataset.context;
      });
    }
    section.querySelector("[data-first]")?.click();
    // Sorting: numbers as numbers, words as words, what is missing last either way.
    const heads = [...table.tHead.rows[1].cells];
    heads.forEach((head, i) => {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const up = now ? now !== "ascending" : !("falling" in head.dataset);
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        table.classList.add("sorted");
        const key = (row) => row.cells[i].dataset.key;
        const compare = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
          const numbers = x !== "" && y !== "" && Number.isFinite(+x) && Number.isFinite(+y);
          const order = numbers ? x - y : x.localeCompare(y, undefined, { numeric: true });
          return up ? order : -order;
        };
        body.append(...[...body.rows].sort(compare));
      });
    });
  }

  // What a point is, under the pointer or the focus.
  const tip = document.getElementById("tip");
  const show = (event) => {
    const point = event.target.closest(".point");
    if (!point) return;
    tip.textContent = point.getAttribute("aria-label");
    tip.hidden = false;
    const at = point.getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - box.width / 2), innerWidth - box.width - 8);
    const above = at.top - box.height - 10;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : at.bottom + 10}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const name of ["pointerover", "focusin"]) document.addEventListener(name, show);
  for (const name of ["pointerout", "focusout"]) document.addEventListener(name, hide);
  addEventListener("scroll", hide, { passive: true });
})();
