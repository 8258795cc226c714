// A session that has ended: the dialog in which the same person signs in again, without leaving the page.

import { adoptPage } from "./http.js";

// Gives a function that asks for the token, once at a time. `again()` is called when the person is signed in.
export function askForSession(dialog, person, again) {
  const form = dialog.querySelector("form");
  const field = form.querySelector("input");
  const mistake = dialog.querySelector(".mistake");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new URLSearchParams({ token: field.value, next: window.location.pathname });
    mistake.textContent = "";
    try {
      const answer = await fetch("/sign-in", { method: "POST", body, credentials: "same-origin", headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById("annotate")?.dataset.person;
      if (!answer.ok || found === undefined) mistake.textContent = "This token is not accepted here.";
      else if (found !== person) window.location.reload(); // the answers here are another person's
      else {
        adoptPage(page);
        field.value = "";
        dialog.close();
        again();
      }
    } catch {
      mistake.textContent = "The server cannot be reached.";
    }
  });
  return () => {
    if (!dialog.open) dialog.showModal();
    field.focus();
  };
}
