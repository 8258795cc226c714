// Texts in their form: the server draws and escapes them, this fetches them before they are wanted.

import { request } from "./http.js";

const PREVIEW_AFTER = 400; // milliseconds without a key
const KEPT = 60; // tasks

// Shows a task's input and what stands beside it. Until the server's part is there, and without a server, the text as it is.
export class Display {
  constructor(run, input, context) {
    Object.assign(this, { run, input, context });
    this.parts = new Map();
    this.wanted = null;
  }

  // Fetches the part of a task that will be shown soon.
  prepare(id) {
    if (!this.parts.has(id)) {
      const path = `/annotate/${this.run}/display/${id}`;
      const part = { text: null };
      this.parts.set(id, part);
      part.ready = request("GET", path, undefined, { headers: { Accept: "text/html" } })
        .then((answer) => answer.text())
        .then((text) => (part.text = text))
        .catch(() => this.parts.delete(id));
      if (this.parts.size > KEPT) this.parts.delete(this.parts.keys().next().value);
    }
    return this.parts.get(id);
  }

  show(task) {
    this.wanted = task.id;
    const part = this.prepare(task.id);
    if (part.text !== null) return this.draw(part.text);
    this.input.textContent = task.input;
    this.context.replaceChildren();
    return part.ready.then(() => part.text !== null && this.wanted === task.id && this.draw(part.text));
  }

  draw(text) {
    const template = document.createElement("template");
    template.innerHTML = text; // the server's own markup
    for (const holder of [this.input, this.context]) {
      const found = template.content.querySelector(`[data-for="${holder === this.input ? "input" : "context"}"]`);
      holder.replaceChildren(...found.childNodes);
    }
    this.input.scrollTop = 0;
  }
}

// Shows in `holder` what `field` holds, in its form, as long as `holder` is not hidden.
export function preview(run, field, holder, kind = "auto") {
  let timer = null;
  let number = 0;
  const draw = async () => {
    const own = ++number;
    try {
      const answer = await request("POST", `/annotate/${run}/preview`, { text: field.value, kind }, { headers: { Accept: "text/html" } });
      const text = await answer.text();
      if (own === number) holder.innerHTML = text; // the server's own markup
    } catch (error) {
      if (own === number) holder.textContent = error.message;
    }
  };
  field.addEventListener("input", () => {
    window.clearTimeout(timer);
    if (!holder.hidden) timer = window.setTimeout(draw, PREVIEW_AFTER);
  });
  return draw;
}

// Buttons that change between a text in its form and the text as it is.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-raw]");
  if (!button) return;
  const raw = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(raw));
  const shown = button.closest(".shown");
  shown.querySelector("[data-shown]").hidden = raw;
  shown.querySelector("[data-as-is]").hidden = !raw;
});
