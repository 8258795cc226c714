// Rename, archive and remove a run, from the last part of its page.

import { requestJson } from "./http.js";
import { notify } from "./shell.js";

const name = document.getElementById("state").dataset.run;
const run = `/api/v1/runs/${name}`;

listen("rename", "submit", async (form) => {
  await requestJson("PUT", `${run}/title`, { title: form.elements.title.value.trim() || null });
  window.location.reload();
});
listen("archive", "click", async (button) => {
  await requestJson("PUT", `${run}/archived`, { archived: button.dataset.archived === "no" });
  window.location.reload();
});
listen("remove", "submit", async (form) => {
  await requestJson("DELETE", run, { confirm: form.elements.confirm.value.trim() });
  window.location.assign("/");
});

function listen(id, kind, act) {
  const element = document.getElementById(id);
  const button = element.querySelector("button") ?? element;
  button.disabled = false; // until now a press would have been lost
  element.addEventListener(kind, async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await act(element);
    } catch (error) {
      notify(error.message, true);
    }
    button.disabled = false;
  });
}
