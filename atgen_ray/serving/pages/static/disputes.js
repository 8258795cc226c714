// Disputes: an admin reads all answers side by side, and settles each task with one click or key.

import { request } from "./http.js";
import { notify } from "./shell.js";

const holder = document.getElementById("disputes");

holder.addEventListener("click", async (event) => {
  const task = event.target.closest("[data-id]");
  if (!task) return;
  const [label, comment] = [task.querySelector("textarea"), task.querySelector("input")];
  if (event.target.closest("[data-use]")) {
    label.value = event.target.closest("div").querySelector("[data-text]").textContent;
    label.focus();
  }
  const verdict = event.target.closest("[data-verdict]")?.dataset.verdict;
  if (verdict) await decide(task, { verdict, text: verdict === "label" ? label.value : "", comment: comment.value });
});

holder.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key !== "Enter") return;
  event.preventDefault();
  event.target.closest("[data-id]")?.querySelector('[data-verdict="label"]').click();
});

async function decide(task, body) {
  try {
    await request("POST", `/api/v1/runs/${holder.dataset.run}/tasks/${task.dataset.id}/decide`, body);
  } catch (error) {
    notify(error.message, true);
    return;
  }
  const next = task.nextElementSibling ?? task.previousElementSibling;
  task.remove();
  notify("Decided.");
  document.getElementById("none").hidden = Boolean(holder.querySelector("[data-id]"));
  next?.querySelector("textarea")?.focus();
}
