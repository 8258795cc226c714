// What every page has: the line that tells what happened, and buttons that send one request.

import { request } from "./http.js";

const SHOWN = 5000; // milliseconds; what went wrong is shown three times as long
let timer = null;

// Shows `text` to everybody, screen readers included, for a while; longer while the pointer rests on it.
export function notify(text, wrong = false) {
  const notice = document.getElementById("notice");
  notice.classList.toggle("wrong", wrong);
  notice.textContent = text;
  window.clearTimeout(timer);
  const hide = () => {
    if (notice.matches(":hover")) timer = window.setTimeout(hide, SHOWN);
    else notice.textContent = "";
  };
  timer = window.setTimeout(hide, wrong ? 3 * SHOWN : SHOWN);
}

// <button data-post="/path" data-then="/page" data-ask="Really?">; without data-then the server's message is shown.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button || (button.dataset.ask && !window.confirm(button.dataset.ask))) return;
  button.disabled = true;
  try {
    const answer = await request("POST", button.dataset.post);
    if (button.dataset.then) {
      window.location.assign(button.dataset.then);
      return;
    }
    notify((await answer.json()).message);
    button.dispatchEvent(new CustomEvent("posted", { bubbles: true }));
  } catch (error) {
    notify(error.message, true);
  }
  button.disabled = false;
});
