// Disputes: an admin reads all answers side by side, and settles each task with one click or key.

import { markDifferences } from "./differences.js";
import { request, requestJson } from "./http.js";
import { notify } from "./shell.js";

const holder = document.getElementById("disputes");
const path = `/api/v1/runs/${holder.dataset.run}/tasks`;
const SETTLED = { label: "Labelled.", drop: "No label.", reopen: "Given back." };

holder.addEventListener("click", async (event) => {
  const task = event.target.closest("[data-id]");
  const button = event.target.closest("button");
  if (!task || !button) return;
  const { verdict } = button.dataset;
  if (verdict) await decide(task, verdict);
  else if ("use" in button.dataset) use(task, button);
  else if ("compare" in button.dataset) compare(task, button);
  else if ("askAnother" in button.dataset) await send(task, "ask", undefined, "Another person is asked.", false);
  else if ("undo" in button.dataset) await undo(task);
});

holder.addEventListener("keydown", (event) => {
  const task = event.target.closest("[data-id]");
  if (task && (event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    task.querySelector('[data-verdict="label"]').click();
  }
});

document.addEventListener("keydown", (event) => {
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const task = document.activeElement.closest("[data-id]");
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  const step = { KeyN: 1, KeyP: -1 }[event.code];
  if (digit && task) use(task, task.querySelectorAll("[data-use]")[digit - 1]);
  else if (step) go(task, step);
  else return;
  event.preventDefault();
});

function use(task, button) {
  if (!button || isSettled(task)) return;
  const label = task.querySelector("textarea");
  label.value = button.closest("div").querySelector("[data-text]").textContent;
  label.focus();
}

function compare(task, button) {
  const marked = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(marked));
  task.querySelector("[data-legend]").hidden = !marked;
  markDifferences([...task.querySelectorAll("[data-answer]")], marked);
}

function isSettled(task) {
  return task.querySelector(".open").hidden;
}

// Goes to a task that waits, from `task` in the direction of `step`.
function go(task, step) {
  const waiting = [...holder.querySelectorAll("[data-id]")].filter((each) => each === task || !isSettled(each));
  const next = task ? waiting[waiting.indexOf(task) + step] : waiting[0];
  next?.querySelector("textarea").focus();
  next?.scrollIntoView({ block: "start" });
}

async function decide(task, verdict) {
  const text = verdict === "label" ? task.querySelector("textarea").value : "";
  if (verdict === "label" && !text.trim()) {
    notify("The label is empty: take an answer, or write one.", true);
    task.querySelector("textarea").focus();
    return;
  }
  const body = { verdict, text, comment: task.querySelector("input").value };
  await send(task, "decide", body, SETTLED[verdict], verdict !== "reopen");
}

async function send(task, verb, body, done, undoable) {
  try {
    await request("POST", `${path}/${task.dataset.id}/${verb}`, body);
  } catch (error) {
    notify(error.message, true);
    return;
  }
  notify(done);
  settle(task, done, undoable);
  go(task, 1);
}

function settle(task, done, undoable) {
  task.querySelector(".open").hidden = true;
  task.querySelector(".settled").hidden = false;
  task.querySelector("[data-settled]").textContent = done;
  task.querySelector("[data-undo]").hidden = !undoable;
  showNone();
}

async function undo(task) {
  try {
    await request("POST", `${path}/${task.dataset.id}/decide/undo`);
  } catch (error) {
    notify(error.message, true);
    return;
  }
  task.querySelector(".open").hidden = false;
  task.querySelector(".settled").hidden = true;
  showNone();
  notify("Taken back.");
  task.querySelector("textarea").focus();
}

function showNone() {
  document.getElementById("none").hidden = [...holder.querySelectorAll("[data-id]")].some((task) => !isSettled(task));
}

document.getElementById("accept")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const at_least = Number(document.getElementById("at-least").value);
  try {
    const { ids } = await requestJson("POST", `${path}/disputes/accept`, { at_least });
    for (const id of ids) {
      const task = holder.querySelector(`[data-id="${window.CSS.escape(id)}"]`);
      if (task && !isSettled(task)) settle(task, "Labelled with the answer nearest to all others.", true);
    }
    notify(`${ids.length} ${ids.length === 1 ? "task" : "tasks"} labelled.`);
  } catch (error) {
    notify(error.message, true);
  }
});
