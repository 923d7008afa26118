// Light and dark: the reader's system decides until the button does.
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const start = async () => {
  site = await read();
  startTips();
  if (site.boards.length) {
    $("shown").hidden = false;
    startFrontier();
    startBoard();
    startCost();
    startNeedles();
    startMethods();
    startAdvice();
    for (const id of ["frontier", "board", "cost", "methods"]) $(id).hidden = false; // each hides itself where it is empty
    startFilters();
    goToMethod();
  } else {
    startCost();
    $("cost").hidden = false;
    showCost();
  }
  // When it was drawn, in milliseconds since it was opened.
  document.documentElement.dataset.drawn = Math.round(performance.now());
  document.documentElement.dataset.ready = "true";
};

start().catch((error) => {
  $("failed").hidden = false;
  $("failed").textContent = `This page could not be drawn: ${error.message}. Opened from disk, use report.html, which holds everything; this form needs a web server.`;
  throw error;
});
