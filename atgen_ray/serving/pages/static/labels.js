// Labels of other tools: the server says how it reads a file and what would happen, and only then imports it.

import { requestJson } from "./http.js";
import { notify } from "./shell.js";

const SHOWN = 20; // reasons of refusal
const form = document.getElementById("bring");
const chooser = document.getElementById("file");
const format = document.getElementById("format");
const status = document.getElementById("status");
const read = document.getElementById("read");
const button = document.getElementById("import");
const maps = new Map([...form.querySelectorAll("[data-mapped]")].map((holder) => [holder.dataset.mapped, holder.querySelector("select")]));
const drop = chooser.closest(".upload");
let file = null;
let asked = 0;

chooser.addEventListener("change", () => take(chooser.files[0]));
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
drop.addEventListener("dragover", () => drop.classList.add("over"));
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
format.addEventListener("change", () => rehearse(true));
for (const select of maps.values()) select.addEventListener("change", () => rehearse());
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const found = await send(false);
  if (!found) return;
  read.hidden = true;
  file = null;
  chooser.value = "";
  notify(`${found.imported} labels imported, ${found.known} known before, ${found.refused.length} refused.`);
  status.textContent = "";
  chooser.focus();
});

function take(chosen) {
  if (!chosen) return;
  file = chosen;
  format.value = "auto";
  rehearse(true);
}

// Asks what would happen; `anew` forgets which columns were chosen.
async function rehearse(anew = false) {
  if (anew) for (const select of maps.values()) select.replaceChildren();
  const found = await send(true);
  if (found) show(found);
}

async function send(rehearsal) {
  const number = ++asked;
  const query = new URLSearchParams({ format: format.value, guess: "true", rehearse: String(rehearsal) });
  for (const [key, select] of maps) if (select.value) query.set(key, select.value);
  status.className = "help";
  status.textContent = rehearsal ? `Reading ${file.name} …` : "Importing …";
  button.disabled = true;
  try {
    const path = `/api/v1/runs/${form.dataset.run}/labels/${encodeURIComponent(file.name)}?${query}`;
    return await requestJson("PUT", path, file, { headers: { "Content-Type": "application/octet-stream" } });
  } catch (error) {
    if (number !== asked) return null;
    status.className = "mistake";
    status.textContent = error.message;
    return null;
  }
}

function show(found) {
  const names = { argilla: "an export of Argilla", "label-studio": "an export of Label Studio", prodigy: "an export of Prodigy", rows: "rows with a label each" };
  status.textContent = `${file.name} is ${names[found.format]}.`;
  read.hidden = false;
  for (const [key, select] of maps) {
    const holder = select.closest("[data-mapped]");
    holder.hidden = found.format !== "rows" && (key === "annotator" || key === "id");
    const choices = key === "text" ? found.questions : found.columns;
    const none = found.format === "rows" ? "none" : "found by itself";
    const options = [make("option", { value: "", textContent: none }), ...choices.map((name) => make("option", { value: name, textContent: name }))];
    select.replaceChildren(...options);
    select.value = found.mapping[key] ?? "";
  }
  showRows(found.rows);
  const counts = [["Will be imported", found.imported], ["Known before", found.known], ["Not in the pool", found.unknown], ["In conflict", found.conflicting], ["Without an answer", found.passed]];
  document.getElementById("counts").replaceChildren(
    ...counts.map(([name, count]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: count.toLocaleString("en") }))),
  );
  const people = Object.entries(found.people).map(([name, count]) => `${name} (${count})`);
  document.getElementById("people").textContent = people.length ? `Labels by ${people.join(", ")}.` : "";
  const reasons = found.refused.slice(0, SHOWN).map((each) => `Row ${each.place + 1}: ${each.reason}.`);
  if (found.refused.length > SHOWN) reasons.push(`And ${found.refused.length - SHOWN} more.`);
  const list = document.getElementById("refused");
  list.replaceChildren(...reasons.map((textContent) => make("li", { textContent })));
  list.hidden = !reasons.length;
  button.disabled = !found.imported;
  button.textContent = found.imported ? `Import ${found.imported.toLocaleString("en")} ${found.imported === 1 ? "label" : "labels"}` : "Nothing to import";
}

function showRows(rows) {
  const head = make("tr", {}, ...["Input", "Annotator", "Label"].map((textContent) => make("th", { scope: "col", textContent })));
  const body = rows.flatMap((row) => {
    const answers = row.answers.length ? row.answers : [{ annotator: "", text: "" }];
    return answers.map((answer, at) => make("tr", {}, ...[at ? "" : row.input, answer.annotator, answer.text].map((text) => make("td", { dir: "auto" }, make("div", { textContent: text })))));
  });
  document.getElementById("rows").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function make(tag, values = {}, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}
