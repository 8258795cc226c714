// Labels that exist already: a file of them is sent, and what became of its rows is shown.

import { requestJson } from "./http.js";

const holder = document.getElementById("disputes");
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
