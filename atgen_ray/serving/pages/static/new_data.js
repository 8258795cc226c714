// Data of a new run: a file is uploaded, its first rows are shown, and columns are ticked, of which the prompt is made.

import { requestJson } from "./http.js";
import { upload } from "./upload.js";

const [pool, input, answer, template] = ["data-pool", "data-input", "data-references", "prompt-template"].map((id) => document.getElementById(id));
const limit = document.getElementById("model-max_prompt_tokens");
const preview = document.getElementById("preview");
const about = document.getElementById("preview-about");
const table = document.getElementById("rows");
const prompts = document.getElementById("prompts");
const note = document.getElementById("template-note");
const NAME = /^[\p{L}_][\p{L}\p{N}_]*(\.[\p{L}_][\p{L}\p{N}_]*)*$/u; // what a template can name
let columns = [];
let guessed = ""; // the location whose columns were guessed
let shown = ""; // the location whose rows are in the table
let asked = 0;
let tell = () => {};

// `told` is called with the keys that a click or an upload changed.
export function connect(form, told) {
  tell = told;
  for (const file of form.querySelectorAll("[data-upload]")) {
    const holder = file.closest(".upload");
    file.addEventListener("change", () => file.files[0] && bring(file.files[0], file));
    holder.addEventListener("dragover", () => holder.classList.add("over"));
    holder.addEventListener("dragleave", () => holder.classList.remove("over"));
    holder.addEventListener("drop", (event) => {
      holder.classList.remove("over");
      if (event.dataTransfer.files[0]) bring(event.dataTransfer.files[0], file);
    });
  }
  // A file that is dropped beside the field must not replace the page.
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  table.addEventListener("change", (event) => tick(event.target));
  document.getElementById("make-template").addEventListener("click", () => {
    template.value = makeTemplate(listTicked());
    note.hidden = true;
    tell(["prompt.template"]);
  });
}

async function bring(file, field) {
  const holder = field.closest(".upload");
  const status = holder.querySelector("[role=status]");
  const bar = holder.querySelector("progress");
  status.className = "help";
  status.textContent = `Uploading ${file.name} …`;
  bar.hidden = false;
  bar.value = 0;
  try {
    const path = `/api/v1/uploads/${encodeURIComponent(file.name)}`;
    const found = await upload(path, file, (share) => (bar.value = share));
    const target = document.getElementById(field.dataset.upload);
    target.value = found.location;
    status.textContent = `Columns: ${found.columns.join(", ")}`;
    tell([target.dataset.key]);
  } catch (error) {
    status.className = "mistake";
    status.textContent = error.message;
  }
  bar.hidden = true;
  field.value = ""; // so that the same file, mended, may come again
}

// Shows rows and prompts of `draft`, the configuration so far.
export async function refresh(draft) {
  const number = ++asked;
  if (!pool.value.trim()) {
    preview.hidden = true;
    prompts.replaceChildren();
    return;
  }
  let found;
  if (shown !== pool.value) {
    table.replaceChildren();
    prompts.replaceChildren();
    preview.hidden = false;
    about.textContent = "Reading the first rows …";
  }
  try {
    found = await requestJson("POST", "/api/v1/configs/preview", draft);
  } catch (error) {
    if (number !== asked) return;
    shown = "";
    preview.hidden = false;
    about.textContent = `The first rows cannot be shown: ${error.message}`;
    table.replaceChildren();
    prompts.replaceChildren();
    return;
  }
  if (number !== asked) return; // a later one is under way
  shown = pool.value;
  columns = found.columns;
  document.getElementById("columns").replaceChildren(...columns.map((each) => make("option", { value: each.name })));
  if (guessed !== pool.value) guess(found);
  showRows(found);
  prompts.replaceChildren(...found.prompts.map((each, at) => showPrompt(each, at + 1, found.counted)));
}

// Fills in the columns that look like input and answer, where none is named that the data have.
function guess(found) {
  guessed = pool.value;
  const known = new Set(columns.map((each) => each.name));
  const changed = [];
  for (const [field, name] of [[input, found.input], [answer, found.answer]]) {
    if (name && !known.has(field.value.trim()) && (field === input || !field.value.trim())) {
      field.value = name;
      changed.push(field.dataset.key);
    }
  }
  if (changed.length) tell(changed);
}

function showRows(found) {
  const names = columns.filter((each) => each.kind !== "object").map((each) => each.name);
  const ticked = new Set(listTicked());
  const kinds = new Map(names.map((name) => [name, ticked.has(name) ? "input" : name === answer.value.trim() ? "answer" : ""]));
  const head = make("tr");
  for (const name of names) {
    const cell = make("th", { scope: "col", className: kinds.get(name) }, make("span", { textContent: name }));
    cell.append(box(name, "Input", kinds.get(name) === "input"), box(name, "Answer", kinds.get(name) === "answer"));
    head.append(cell);
  }
  const body = found.rows.map((row) => {
    const cells = names.map((name) => make("td", { className: kinds.get(name), dir: "auto" }, make("div", { textContent: row[name] ?? "" })));
    return make("tr", {}, ...cells);
  });
  const focused = document.activeElement?.dataset?.column && `${document.activeElement.dataset.role} ${document.activeElement.dataset.column}`;
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  preview.hidden = false;
  const wrong = found.unreadable.length ? ` Some rows cannot be read: ${found.unreadable[0]}.` : "";
  about.textContent = `The first ${found.rows.length} rows. Tick what the model reads (input) and what it is to write (answer, if the file has it).${wrong}`;
  for (const each of focused ? table.querySelectorAll("input") : []) {
    if (`${each.dataset.role} ${each.dataset.column}` === focused) each.focus();
  }
}

function box(name, role, checked) {
  const field = make("input", { type: "checkbox", checked, ariaLabel: `${role}: ${name}` });
  field.dataset.column = name;
  field.dataset.role = role;
  return make("label", {}, field, make("span", { textContent: role }));
}

function tick(box) {
  const { column, role } = box.dataset;
  const before = listTicked();
  const changed = [];
  if (role === "Answer") {
    answer.value = box.checked ? column : "";
    changed.push("data.references");
  }
  const wanted = columns.map((each) => each.name).filter((name) => (name === column ? role === "Input" && box.checked : before.includes(name)));
  if (wanted.join("\n") !== before.join("\n")) changed.push(...takeInputs(wanted, before));
  if (role === "Input" && box.checked && answer.value.trim() === column) {
    answer.value = "";
    changed.push("data.references");
  }
  tell(changed);
}

// Makes input and template of the ticked columns; a template that somebody wrote is theirs.
function takeInputs(wanted, before) {
  const odd = wanted.length > 1 && wanted.find((name) => !NAME.test(name));
  if (odd) {
    say(`“${odd}” cannot stand beside others in a template, for its name is no single word. Rename it in the file.`, true);
    return ["data.input"];
  }
  const own = template.value.trim() && template.value !== makeTemplate(before);
  if (!wanted.includes(input.value.trim())) input.value = wanted[0] ?? "";
  if (own) say("The template is your own: it stays as it is.");
  else {
    template.value = makeTemplate(wanted);
    note.hidden = true;
  }
  return ["data.input", "prompt.template"];
}

function say(text, alone = false) {
  note.hidden = false;
  note.firstElementChild.textContent = text;
  document.getElementById("make-template").hidden = alone;
}

// Columns that the prompt is made of: those that the template names, and the input's where it stands for it.
function listTicked() {
  const text = template.value;
  const named = new Set([...text.matchAll(/\{\{\s*([^\s|}]+)/g)].map((each) => each[1]));
  const alone = !text.trim() || named.has("input");
  return columns.map((each) => each.name).filter((name) => named.has(name) || (alone && name === input.value.trim()));
}

function makeTemplate(names) {
  if (names.length < 2) return "";
  return names.map((name) => `${title(name)}: {{ ${name} }}`).join("\n\n");
}

function title(name) {
  const last = name.split(".").pop().replaceAll("_", " ");
  return last.charAt(0).toUpperCase() + last.slice(1);
}

function showPrompt(prompt, number, counted) {
  const card = make("article", { className: "prompt" });
  const tokens = `${counted ? "" : "about "}${prompt.tokens.toLocaleString("en")} tokens`;
  const head = make("p", { className: "row spread" }, make("strong", { textContent: `Prompt ${number}` }), make("span", { className: "help", textContent: prompt.error ? "" : tokens }));
  head.lastElementChild.title = counted ? "By the model's tokenizer, without the marks of its chat template" : "Estimated: the model's tokenizer is not on this machine yet";
  card.append(head);
  if (prompt.error) card.append(make("p", { className: "mistake", textContent: prompt.error }));
  if (prompt.system) card.append(make("pre", { className: "help", textContent: prompt.system, tabIndex: 0, dir: "auto" }));
  if (prompt.text) card.append(make("pre", { textContent: prompt.text, tabIndex: 0, dir: "auto" }));
  if (prompt.answer) card.append(make("p", { className: "help", textContent: `Answer: ${prompt.answer}`, dir: "auto" }));
  const most = Number(limit.value || limit.placeholder);
  if (prompt.tokens > most) card.append(make("p", { className: "mistake", textContent: `It is longer than model.max_prompt_tokens, ${most}: its end is cut.` }));
  return card;
}

function make(tag, values = {}, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}
