// The form of a new run: checked by the server as one types, planned, and only then launched.

import { requestJson } from "./http.js";
import * as choices from "./new_choices.js";
import * as data from "./new_data.js";
import { forget, keep, restore } from "./new_state.js";
import { notify } from "./shell.js";

const form = document.getElementById("new-run");
const fields = [...form.querySelectorAll("[data-key]")];
const launch = document.getElementById("launch");
const launchHelp = document.getElementById("launch-help");
const table = document.getElementById("plan-table");
const touched = new Set();
const PAUSE = 250; // milliseconds without a key before the server is asked
let timer = 0;
let asked = 0;
let planned = null; // the configuration whose plan is shown

// A location is looked at once it is whole: half a name may be that of another dataset on the hub.
form.addEventListener("input", ({ target }) => target.dataset.key && changed([target.dataset.key], target.dataset.key !== "data.pool"));
form.addEventListener("change", ({ target }) => target.dataset.key === "data.pool" && data.refresh(draft()));
form.addEventListener("focusout", (event) => {
  if (event.target.dataset.key) touched.add(event.target.dataset.key);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  plan();
});
launch.addEventListener("click", start);
document.getElementById("download").addEventListener("click", download);
document.getElementById("start-over").addEventListener("click", () => {
  forget();
  form.reset(); // else the browser itself fills in again what was there
  window.location.reload();
});
data.connect(form, changed);
choices.connect(changed);
resume();

// Goes on with what was typed before, if anything was.
function resume() {
  const kept = restore(fields);
  if (kept) {
    document.getElementById("restored").hidden = false;
    for (const key of kept.touched) touched.add(key);
  }
  choices.show();
  check();
  data.refresh(draft());
}

function changed(keys, look = true) {
  for (const key of keys) touched.add(key);
  planned = null;
  launch.disabled = true;
  launchHelp.textContent = "Look at the plan first.";
  table.replaceChildren();
  choices.show();
  keep(fields, { touched: [...touched] });
  window.clearTimeout(timer);
  timer = window.setTimeout(() => {
    check();
    if (look) data.refresh(draft());
  }, PAUSE);
}

function draft() {
  const config = { data: {}, model: {} }; // so that what is missing is a key of theirs
  for (const field of fields) {
    const text = field.dataset.kind === "lines" ? field.value : field.value.trim();
    if (!text || field.id === "more" || !choices.counts(field)) continue;
    let place = config;
    const parents = field.dataset.key.split(".");
    const last = parents.pop();
    for (const parent of parents) place = place[parent] ??= {};
    const number = field.dataset.kind === "integer" || field.dataset.kind === "number";
    place[last] = number && Number.isFinite(Number(text)) ? Number(text) : text;
  }
  return { config, more: document.getElementById("more").value };
}

// Asks what is wrong; `all` shows it for keys that nobody has touched too. Gives the checked tree, or null.
async function check(all = false) {
  const number = ++asked;
  let answer;
  try {
    answer = await requestJson("POST", "/api/v1/configs/check", draft());
  } catch (error) {
    notify(error.message, true);
    return null;
  }
  if (number !== asked) return null; // a later question is under way
  if (all) for (const field of fields) touched.add(field.dataset.key);
  show(answer.mistakes, all);
  return answer.mistakes.length ? null : answer.config;
}

function show(mistakes, all) {
  const byKey = new Map(mistakes.map((each) => [each.key, each.message]));
  const known = new Set(fields.map((field) => field.dataset.key));
  for (const field of fields) {
    const message = touched.has(field.dataset.key) ? byKey.get(field.dataset.key) : undefined;
    document.getElementById(`${field.id}-mistake`).textContent = message ?? "";
    if (message) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
  const lines = mistakes.filter((each) => !known.has(each.key) || (all && byKey.has(each.key)));
  const shown = touched.size ? lines : [];
  document.getElementById("mistakes").replaceChildren(...shown.map((each) => paragraph("mistake", each.message)));
}

// To the first field that is wrong, wherever it is folded away.
function goToMistake() {
  const wrong = form.querySelector("[aria-invalid]") ?? document.getElementById("mistakes");
  for (let holder = wrong.closest("details"); holder; holder = holder.parentElement.closest("details")) holder.open = true;
  wrong.focus();
}

async function download() {
  try {
    const { name, text } = await requestJson("POST", "/api/v1/configs/yaml", draft());
    const link = Object.assign(document.createElement("a"), { download: name, href: URL.createObjectURL(new Blob([text], { type: "application/yaml" })) });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    notify(error.message, true);
  }
}

async function plan() {
  const config = await check(true);
  if (!config) {
    goToMistake();
    return;
  }
  table.replaceChildren(paragraph("pending", "Counting rows and tokens …"));
  try {
    const found = await requestJson("POST", "/api/v1/configs/plan", { config });
    planned = config;
    table.replaceChildren(paragraph("cost", summarize(found)), showTiles(found), fold(tabulate(found)));
    launch.disabled = false;
    launchHelp.textContent = "";
    launch.focus();
  } catch (error) {
    table.replaceChildren(paragraph("mistake", error.message));
  }
}

async function start() {
  if (!planned) return;
  launch.disabled = true;
  try {
    const started = await requestJson("POST", "/api/v1/runs", planned);
    forget();
    window.location.assign(`/runs/${started.name}`);
  } catch (error) {
    launch.disabled = false;
    notify(error.message, true);
  }
}

function summarize(plan) {
  const [labels, rounds] = [plan.labels, plan.rounds].map((count) => count.toLocaleString("en"));
  const [dollars, most] = [plan.dollars, plan.dollars_at_most].map((amount) => `$${amount < 1 ? Number(amount.toPrecision(2)) : amount.toFixed(2)}`);
  return `${labels} labels in ${rounds} rounds for about ${dollars}, never more than ${most}.`;
}

// What a run takes, in four numbers.
function showTiles(plan) {
  const minutes = [plan.annotation_minutes, plan.device_minutes].filter((each) => typeof each === "number");
  const known = plan.device_minutes === null ? "not known yet" : minutes.reduce((sum, each) => sum + each, 0).toLocaleString("en", { maximumFractionDigits: 1 });
  const tiles = [["Labels", plan.labels.toLocaleString("en")], ["Dollars expected", write("dollars", plan.dollars)], ["Dollars at most", write("dollars", plan.dollars_at_most)], ["Minutes", known]];
  const holder = document.createElement("dl");
  holder.className = "tiles";
  for (const [name, value] of tiles) {
    const tile = document.createElement("div");
    tile.append(Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }));
    holder.append(tile);
  }
  return holder;
}

function fold(element) {
  const holder = document.createElement("details");
  holder.append(Object.assign(document.createElement("summary"), { textContent: "All numbers of the plan" }), element);
  return holder;
}

function tabulate(plan) {
  const rows = Object.entries(plan).map(([key, value]) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = key.replaceAll("_", " ");
    const number = document.createElement("td");
    number.textContent = write(key, value);
    row.append(name, number);
    return row;
  });
  const body = document.createElement("tbody");
  body.append(...rows);
  const caption = document.createElement("caption");
  caption.className = "sr";
  caption.textContent = "The plan";
  const element = document.createElement("table");
  element.className = "plan";
  element.append(caption, body);
  return element;
}

function write(key, value) {
  if (value === null) return "not known yet";
  if (Array.isArray(value)) return value.join("; ");
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  const text = value.toLocaleString("en", { maximumFractionDigits: 4 });
  return key.includes("dollars") ? `$${text}` : text;
}

function paragraph(kind, text) {
  const line = document.createElement("p");
  line.className = kind;
  line.textContent = text;
  return line;
}
