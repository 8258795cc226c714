// The guidelines beside the task: open on the first visit and after each new version, until the person closes them.

import { request, requestJson } from "./http.js";

const LOOK = 60000; // milliseconds between two looks for a new version
const SEEN = "guidelines";

export class Guide {
  constructor(run, store, panel, { changed }) {
    Object.assign(this, { run, store, panel, changed });
    if (this.panel.querySelector(".shown") && this.version > this.store.get(SEEN, 0)) this.panel.hidden = false;
    window.setInterval(() => this.look(), LOOK);
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  // The version that is shown, which answers carry.
  get version() {
    return Number(this.panel.querySelector("[data-version]").dataset.version);
  }

  understood() {
    this.store.set(SEEN, this.version);
  }

  // Shows a version that somebody wrote meanwhile.
  async look() {
    try {
      const { version } = await requestJson("GET", `/api/v1/runs/${this.run}/guidelines/version`);
      if (version <= this.version) return;
      const answer = await request("GET", `/annotate/${this.run}/guidelines/newest`, undefined, { headers: { Accept: "text/html" } });
      this.panel.innerHTML = await answer.text(); // the server's own markup
      this.panel.hidden = false;
      this.changed(version);
    } catch {
      // It looks again later; what cannot be reached is told by the desk.
    }
  }
}

// The dialog for a remark to the lead: `current` gives the task, `told` hears what became of it.
export function openRemarks(run, dialog, current, told) {
  const form = dialog.querySelector("form");
  const field = dialog.querySelector("textarea");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = field.value.trim();
    const id = dialog.dataset.task;
    if (!text) return;
    try {
      await requestJson("POST", `/api/v1/runs/${run}/tasks/${id}/remark`, { text });
      field.value = "";
      dialog.close();
      told("The lead has your remark.");
    } catch (error) {
      told(error.message, true);
    }
  });
  return () => {
    const task = current();
    if (!task) return;
    if (dialog.dataset.task !== task.id) field.value = "";
    dialog.dataset.task = task.id;
    dialog.showModal();
    field.focus();
  };
}
