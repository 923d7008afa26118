// Light and dark: the reader's system decides until the button does.
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const SECTIONS = ["frontier", "board", "cost", "methods"];

const start = async () => {
  site = await read();
  startTips();
  for (const id of SECTIONS) $(id).hidden = !site.boards.length; // each then hides itself where it is empty
  if (site.boards.length) {
    $("shown").hidden = false;
    startFrontier();
    startBoard();
    startFilters();
  }
  // What stands first can be read now; what is below comes while it is. In milliseconds since the page was opened.
  document.documentElement.dataset.drawn = Math.round(performance.now());
  await new Promise((resolve) => setTimeout(resolve));
  $("cost").hidden = false;
  startCost();
  startTrained();
  if (site.boards.length) {
    startNeedles();
    startMethods();
    startAdvice();
    goToMethod();
  }
  document.documentElement.dataset.ready = "true";
};

start().catch((error) => {
  $("failed").hidden = false;
  $("failed").textContent = `This page could not be drawn: ${error.message}. Opened from disk, use report.html, which holds everything; this form needs a web server.`;
  throw error;
});
