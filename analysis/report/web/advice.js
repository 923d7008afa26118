// "Which method for me?": what records measured, and beside it what the planner says; each number says which it is.
const HOW = {
  equal: "shown to lose nothing (=)",
  unclear: "no loss that the samples can tell (≈)",
  any: "show every method",
};
const badge = (what) => h("span", { class: `badge ${what}` }, what);

// Where the quality comes from: a board of this model if there is one, at the longest measured context that is no longer.
const evidence = (model, wanted, context) => {
  const boards = site.boards.filter((board) => board.columns.some((column) => column.name === wanted));
  const board = boards.find((one) => one.model === model) ?? boards[0];
  const there = board.standings.filter((one) => one.column === wanted).sort((a, b) => a.context - b.context);
  return { board, column: board.columns.find((column) => column.name === wanted), told: there.findLast((one) => one.context <= context) ?? there[0] };
};

const losesNothing = (difference, how) => {
  if (how === "any") return true;
  if (!difference) return false;
  const [mean, , , mark] = difference;
  return mark === "equal" || (mark === "differs" && mean > 0) || (how === "unclear" && mark === "unclear");
};

const signed = (x) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x).toFixed(3);

// A method's bytes and seconds: as measured where this very cell was, else by the planner; null where neither knows.
const sizes = (label, asked) => {
  const { model, device, context, batch } = asked;
  const board = site.boards.find((one) => one.model === model && one.machine === device && one.batch === batch);
  const row = board?.rows.find((one) => one.method === label && one.context === context);
  if (row?.cost.live) return { how: "measured", state: row.cost.live[0], decode: row.cost.decode?.[0], read: row.cost.read?.[0] };
  const plan = site.planner;
  const found = plan?.sizes[model]?.[label]?.[plan.contexts.indexOf(context)];
  if (!found) return null;
  const [held, there, read] = found;
  const weights = plan.models[model].weights;
  const hardware = plan.devices.find((one) => one.name === device);
  return { how: "predicted", state: held * batch, need: weights + (hardware?.is_host ? held : there) * batch, memory: hardware?.memory, decode: hardware && (weights + batch * read) / hardware.bandwidth };
};

const advise = () => {
  const asked = { model: $("advice-model").value, device: $("advice-device").value, context: Number($("advice-context").value), batch: Math.max(1, Number($("advice-batch").value) || 1) };
  const how = $("advice-how").value;
  const { board, column, told } = evidence(asked.model, $("advice-task").value, asked.context);
  const rows = board.rows.filter((row) => row.context === told.context && row.points[column.name]);
  const serves = (row) => row.dense || (row.competes && losesNothing(told.differences[row.method], how));
  const found = rows.filter(serves).map((row) => ({ row, size: sizes(row.method, asked) })).filter(({ size }) => size)
    .map((one) => ({ ...one, fits: one.size.need === undefined || one.size.memory === undefined ? undefined : one.size.need <= one.size.memory }))
    .sort((a, b) => (b.fits ?? true) - (a.fits ?? true) || a.size.state - b.size.state);
  const where = `${column.short} on ${board.model} at ${thousands(told.context)} tokens${board.model === asked.model ? "" : ", another model than yours"}${told.context === asked.context ? "" : ", another context than yours"}`;
  const best = found.find((one) => one.fits !== false);
  $("advice-words").textContent = told.floor !== null ? `${told.words} So nothing can be said of what it must not lose; choose another task.`
    : !found.length ? "Neither records nor the planner know this cell. Choose another device or context, or run it: the commands stand in each method's section."
    : !best ? "None of these fits the device, weights and state alone; take a larger device, a smaller batch or a shorter context."
    : `${best.row.method}: ${best.row.dense ? "nothing smaller qualifies and fits" : `the smallest state of ${found.length} methods that ${how === "any" ? "are known here" : "qualify"}`}. Quality is measured (${where}); bytes and seconds are ${best.size.how}${best.size.how === "predicted" ? " in closed form, at 16 bits, activations not counted, seconds as a floor by bandwidth" : ""}.`;
  $("advice-words").dataset.method = told.floor === null && best ? best.row.method : "";
  const plan = site.planner?.models[asked.model];
  table($("advice-table"), ["method", "against dense", "state", "weights and state", "decode a token", "what the planner says of its peak"], (told.floor === null ? found : []).map(({ row, size, fits }) => {
    const difference = told.differences[row.method];
    const command = plan && site.planner.devices.some((one) => one.name === asked.device) ? `kvfrontier plan model=${asked.model} ${site.methods[row.method].words} context=${asked.context} batch=${asked.batch} device=${asked.device} --why` : "";
    return [
      [marker(row.family, !row.competes), h("a", { href: `#method/${encodeURIComponent(row.method)}` }, row.method), " ", ...chips(row.flags)],
      difference ? [`${signed(difference[0])} [${signed(difference[1])}, ${signed(difference[2])}] `, badge("measured")] : row.dense ? "the reference" : "not compared",
      [`${UNITS.bytes(size.state)} `, badge(size.how)],
      size.need ? [`${UNITS.bytes(size.need)}${fits === undefined ? "" : fits ? ", fits" : ", does not fit"} `, badge("predicted")] : "–",
      size.decode ? [`${size.how === "predicted" ? "at least " : ""}${UNITS.seconds(size.decode)} `, badge(size.how)] : "–",
      command ? h("code", {}, command) : "–",
    ];
  }));
};

const startAdvice = () => {
  const plan = site.planner;
  const columns = new Map(site.boards.flatMap((board) => board.columns.map((column) => [column.name, column.words])));
  $("advice").hidden = !columns.size;
  if (!columns.size) return;
  const unique = (values) => [...new Set(values)].map((value) => [value, value]);
  $("advice-lead").textContent = plan
    ? "Quality comes from the records on this page; bytes and seconds from the records where this very model, device, context and batch was measured, and else from the planner. Each number says which it is."
    : "Answered from the records on this page alone; written by kvfrontier report, it has the planner's predictions too.";
  options($("advice-model"), unique([...site.boards.map((board) => board.model), ...Object.keys(plan?.models ?? {})]));
  options($("advice-device"), [...unique(site.boards.map((board) => board.machine)), ...(plan?.devices ?? []).map((one) => [one.name, `${one.name} (${UNITS.bytes(one.memory)})`])]);
  const contexts = [...new Set([...site.boards.flatMap((board) => board.contexts), ...(plan?.contexts ?? [])])].sort((a, b) => a - b);
  options($("advice-context"), contexts.map((context) => [context, thousands(context)]), site.boards[0].fullest);
  options($("advice-task"), [...columns]);
  options($("advice-how"), Object.entries(HOW), "unclear");
  for (const id of ["model", "device", "context", "batch", "task", "how"]) $(`advice-${id}`).addEventListener("input", advise);
  $("advice-form").addEventListener("submit", (event) => event.preventDefault());
  advise();
};
