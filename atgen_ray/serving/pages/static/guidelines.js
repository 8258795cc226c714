// The page of the guidelines: new versions, remarks that become rules, earlier answers that are sent back.

import { showDifference } from "./difference.js";
import { preview } from "./display.js";
import { requestJson } from "./http.js";
import { notify } from "./shell.js";

const root = document.getElementById("guidelines-page");
const { run } = root.dataset;
const version = Number(root.dataset.version);
const path = `/api/v1/runs/${run}`;

// Sends a request, and shows the page anew, or what went wrong.
async function change(method, part, body) {
  try {
    const answer = await requestJson(method, `${path}/${part}`, body);
    window.location.assign(`/annotate/${run}/guidelines`);
    return answer;
  } catch (error) {
    notify(error.message, true);
    return null;
  }
}

const form = document.getElementById("edit-form");
if (form) {
  const holder = document.getElementById("preview");
  const draw = preview(run, document.getElementById("text"), holder, "markdown");
  const button = document.getElementById("show-preview");
  button.addEventListener("click", () => {
    holder.hidden = !holder.hidden;
    button.setAttribute("aria-expanded", String(!holder.hidden));
    if (!holder.hidden) draw();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = document.getElementById("text").value;
    change("PUT", "guidelines", { text, reason: document.getElementById("reason").value, based_on: version });
  });
}

for (const remark of document.querySelectorAll(".remark")) {
  const rule = remark.querySelector("form");
  const begin = remark.querySelector("[data-rule]");
  begin.addEventListener("click", () => {
    rule.hidden = !rule.hidden;
    begin.setAttribute("aria-expanded", String(!rule.hidden));
    if (!rule.hidden) rule.querySelector("textarea").focus();
  });
  rule.addEventListener("submit", (event) => {
    event.preventDefault();
    change("POST", `remarks/${remark.dataset.id}/rule`, { rule: rule.querySelector("textarea").value, based_on: version });
  });
  remark.querySelector("[data-close]").addEventListener("click", () => change("POST", `remarks/${remark.dataset.id}/close`));
}

document.getElementById("send-back")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = [...event.target.querySelectorAll('input[name="id"]:checked')].map((each) => each.value);
  const all = event.submitter?.value === "all";
  if (!all && !chosen.length) return notify("No answer is chosen.", true);
  const search = document.getElementById("search").defaultValue;
  const reason = document.getElementById("back-reason").value;
  return change("POST", `guidelines/${version}/send-back`, { reason, search, ids: all ? null : [...new Set(chosen)] });
});

let after = document.querySelector("[data-newest]")?.textContent;
for (const each of document.querySelectorAll("details.version")) {
  const text = each.querySelector("[data-text]").textContent;
  showDifference(each.querySelector(".difference"), text, after);
  after = text;
}
