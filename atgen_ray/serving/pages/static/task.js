// One task: an admin accepts answers, corrects them or sends them back, and goes on to the next task.

import { request } from "./http.js";
import { notify } from "./shell.js";

const root = document.getElementById("task");
const path = `/api/v1/runs/${root.dataset.run}/tasks/${root.dataset.id}/review`;

async function judge(card, verdict, { text = "", comment = "" } = {}) {
  const body = { annotator: card.dataset.annotator, verdict, text, comment, drawn: root.dataset.drawn === "yes" };
  try {
    await request("POST", path, body);
  } catch (error) {
    notify(error.message, true);
    return;
  }
  delete card.dataset.waits;
  const next = document.getElementById("next");
  if (document.querySelector("[data-waits]") || !next) window.location.reload();
  else window.location.assign(next.href);
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.verdict) judge(button.closest("article"), button.dataset.verdict);
  if (button?.dataset.open) open(button, document.getElementById(button.dataset.open).hidden);
});

root.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  const value = (mark) => form.querySelector(`[${mark}]`)?.value ?? "";
  judge(form.closest("article"), form.dataset.verdict, { text: value("data-text"), comment: value("data-comment") });
});

function open(button, on) {
  const form = document.getElementById(button.dataset.open);
  form.hidden = !on;
  button.setAttribute("aria-expanded", String(on));
  if (on) form.querySelector("textarea").focus();
}

// Keys are for the answer that has the focus, else for the first that waits.
const card = () => document.activeElement.closest("article") ?? document.querySelector("[data-waits]") ?? document.querySelector("article");
const press = (mark) => card()?.querySelector(mark)?.click();
const KEYS = {
  a: () => press('button[data-verdict="accepted"]'),
  c: () => press('[data-open^="correct"]'),
  b: () => press('[data-open^="return"]'),
  j: () => document.getElementById("next")?.click(),
  u: () => document.getElementById("back").click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (typing && (event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    event.target.closest("form")?.requestSubmit();
  } else if (typing && event.key === "Escape") {
    const form = event.target.closest("form");
    const button = document.querySelector(`[data-open="${form.id}"]`);
    open(button, false);
    button.focus();
  } else if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey && KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
