// Disputes: an admin reads all answers side by side, and settles each task with one click or key; or brings labels.

import { request, requestJson } from "./http.js";
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

const SHOWN = 20; // reasons of refusal
const file = document.getElementById("labels");
const status = document.getElementById("imported");
const refused = document.getElementById("refused");

file.addEventListener("change", async () => {
  if (!file.files[0]) return;
  status.className = "help";
  status.textContent = "Importing …";
  refused.replaceChildren();
  try {
    show(await bring(file.files[0]));
  } catch (error) {
    status.className = "mistake";
    status.textContent = error.message;
  }
  refused.hidden = !refused.childElementCount;
  file.value = ""; // so that the same file, mended, may come again
});

function bring(labels) {
  const path = `/api/v1/runs/${holder.dataset.run}/labels/${encodeURIComponent(labels.name)}`;
  return requestJson("PUT", path, labels, { headers: { "Content-Type": "application/octet-stream" } });
}

function show(found) {
  status.textContent = `${found.imported} imported, ${found.known} known before, ${found.refused.length} refused.`;
  const reasons = found.refused.slice(0, SHOWN).map((each) => `Row ${each.place + 1}: ${each.reason}.`);
  if (found.refused.length > SHOWN) reasons.push(`And ${found.refused.length - SHOWN} more.`);
  refused.append(...reasons.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}
