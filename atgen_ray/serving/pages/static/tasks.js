// The task list: counts what the filter means, and lets an admin act on rows, or on everything that the filter means.

import { request, requestJson } from "./http.js";
import { notify } from "./shell.js";

const find = (id) => document.getElementById(id);
const root = find("tasks");
const { run } = root.dataset;
const path = `/api/v1/runs/${run}/tasks`;
const filter = find("filter");
const chosen = new Set(); // ids of rows
let everything = false;
let matching = null; // how many tasks the filter means

const rows = () => [...document.querySelectorAll("tr[data-id]")];
const say = (count) => `${count.toLocaleString("en")} ${count === 1 ? "task" : "tasks"}`;

// The address holds what is set and nothing else, so that it is short when it is shared.
filter.addEventListener("submit", (event) => {
  event.preventDefault();
  addColumn();
  const asked = new URLSearchParams([...new FormData(filter)].filter(([, value]) => value !== ""));
  if (!asked.has("q")) asked.delete("within");
  if (asked.get("within") === "input") asked.delete("within");
  if (asked.get("sort") === "queue" || (asked.get("sort") === "similarity" && !asked.has("like"))) asked.delete("sort");
  window.location.assign(`${filter.action}${asked.size ? `?${asked}` : ""}`);
});

// The row of controls for a source column becomes a condition.
function addColumn() {
  if (!find("column")?.value) return;
  const box = document.createElement("input");
  Object.assign(box, { type: "hidden", name: "field", value: `${find("column").value}${find("sign").value}${find("value").value}` });
  filter.append(box);
}
find("column")?.addEventListener("change", () => {
  const values = JSON.parse(find("column").selectedOptions[0].dataset.values || "[]");
  find("values").replaceChildren(...values.map((value) => new window.Option(value, value)));
});

// The number comes after the rows: to count takes longer than to show a page.
async function count() {
  try {
    const found = await requestJson("GET", `${path}/count${root.dataset.query}`);
    matching = found.count;
    const states = Object.entries(found.states).sort((one, other) => other[1] - one[1]);
    const parts = states.length > 1 ? ` (${states.map(([state, number]) => `${number.toLocaleString("en")} ${state}`).join(", ")})` : "";
    find("count").textContent = `${say(found.count)}${parts}`;
  } catch (error) {
    find("count").textContent = error.message;
  }
  draw();
}

function draw() {
  const bulk = find("bulk");
  if (!bulk) return;
  for (const row of rows()) {
    const on = everything || chosen.has(row.dataset.id);
    row.classList.toggle("chosen", on);
    row.querySelector("[data-select]").checked = on;
  }
  const size = everything ? matching : chosen.size;
  bulk.hidden = !size;
  find("selected").textContent = size ? `${say(size)} selected` : "";
  find("everything").hidden = everything || !matching || matching === chosen.size;
  if (matching) find("everything").textContent = `Select all ${say(matching)} that match`;
  const here = rows();
  if (find("page")) find("page").checked = here.length > 0 && here.every((row) => everything || chosen.has(row.dataset.id));
}

function choose(row, on) {
  if (everything) {
    everything = false;
    for (const each of rows()) chosen.add(each.dataset.id);
  }
  if (on) chosen.add(row.dataset.id);
  else chosen.delete(row.dataset.id);
  draw();
}

function choosePage(on) {
  for (const row of rows()) choose(row, on);
}

root.addEventListener("change", (event) => {
  if (event.target.matches("[data-select]")) choose(event.target.closest("tr"), event.target.checked);
  if (event.target.id === "page") choosePage(event.target.checked);
});

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "everything") everything = true;
  if (button.id === "none") {
    everything = false;
    chosen.clear();
  }
  draw();
  if (button.dataset.verb) confirmed(button.dataset.verb, {});
  if (button.dataset.ask) ask(button.dataset.ask);
  if (button.dataset.undo) undo(button);
});

const meant = () => {
  const query = new URLSearchParams(root.dataset.query);
  if (!everything) return { ids: [...chosen] };
  const lists = ["state", "field"];
  const asked = Object.fromEntries([...query.keys()].map((name) => [name, lists.includes(name) ? query.getAll(name) : query.get(name)]));
  return { filter: asked, expected: matching };
};

const TITLES = { assign: "Keep for", reopen: "Open again", drop: "Drop" };
const NOTES = {
  assign: "Only these people are given the tasks from now on. It can be undone.",
  reopen: "Answers become drafts of those who gave them, and the tasks are answered anew. It cannot be undone. A label that the run has stays until there is a new one.",
  drop: "The tasks get no label. It can be undone.",
};

function ask(verb) {
  const size = everything ? matching : chosen.size;
  find("ask-title").textContent = `${TITLES[verb]}: ${say(size)}`;
  find("ask-note").textContent = NOTES[verb];
  find("ask-who").hidden = verb !== "assign";
  find("ask-reason").hidden = verb === "assign";
  find("ask-form").dataset.verb = verb;
  find("ask-do").textContent = `${TITLES[verb]}: ${say(size)}`;
  find("ask").showModal();
}

find("ask-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const { verb } = event.target.dataset;
  const who = [...event.target.querySelectorAll('[name="who"]:checked')].map((box) => box.value);
  find("ask").close();
  confirmed(verb, verb === "assign" ? { who } : { reason: find("reason").value });
});
find("ask-close")?.addEventListener("click", () => find("ask").close());

async function confirmed(verb, more) {
  try {
    const done = await requestJson("POST", `${path}/bulk`, { verb, ...meant(), ...more });
    everything = false;
    chosen.clear();
    await renew();
    notify(done.tasks ? `${say(done.tasks)} changed.` : "Nothing had to be changed.");
    const actions = find("actions");
    if (actions && done.tasks) {
      actions.open = true;
      (actions.querySelector("[data-undo]") ?? actions.querySelector("summary")).focus();
    }
  } catch (error) {
    notify(error.message, true);
  }
}

async function undo(button) {
  button.disabled = true;
  try {
    const done = await requestJson("POST", `${path}/bulk/${button.dataset.undo}/undo`);
    await renew();
    notify(`${say(done.tasks)} as before.${done.changed ? ` ${say(done.changed)} had changed since and stay.` : ""}`);
    find("actions").open = true;
    find("actions").querySelector("summary").focus();
  } catch (error) {
    notify(error.message, true);
    button.disabled = false;
  }
}

// Takes the rows and the latest actions anew from the server, whose markup is its own and escaped there.
async function renew() {
  find("found").setAttribute("aria-busy", "true");
  try {
    const answer = await request("GET", window.location.href, undefined, { headers: { Accept: "text/html" } });
    const page = new window.DOMParser().parseFromString(await answer.text(), "text/html");
    find("found").replaceWith(page.getElementById("found"));
  } finally {
    find("found").removeAttribute("aria-busy");
  }
  await count();
}

function move(step) {
  const links = [...document.querySelectorAll("[data-open]")];
  const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + step))]?.focus();
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  x: () => {
    const row = document.activeElement.closest("tr[data-id]");
    if (row?.querySelector("[data-select]")) choose(row, !row.querySelector("[data-select]").checked);
  },
  a: () => find("page") && choosePage(!find("page").checked),
  "/": () => find("q").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches('input:not([type="checkbox"]), textarea, select') || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

count();
