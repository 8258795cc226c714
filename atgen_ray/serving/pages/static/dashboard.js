// The list of runs is asked for again while one of them goes on; ticks and focus stay.

import { request } from "./http.js";
import { notify } from "./shell.js";

const holder = document.getElementById("runs");
const form = document.getElementById("compare");
const EVERY = 4000; // milliseconds

form.addEventListener("submit", (event) => {
  if (form.querySelectorAll("input:checked").length >= 2) return;
  event.preventDefault();
  notify("Tick two or more runs to compare them.", true);
});

async function refresh() {
  const going = Number(document.getElementById("runs-state").dataset.going);
  if (going && !document.hidden) {
    try {
      const answer = await request("GET", "/parts/runs", undefined, { headers: { Accept: "text/html" } });
      const text = await answer.text();
      const ticked = new Set([...holder.querySelectorAll("input:checked")].map((box) => box.value));
      const focused = document.activeElement?.value ?? document.activeElement?.getAttribute?.("href");
      holder.innerHTML = text;
      for (const box of holder.querySelectorAll("input")) box.checked = ticked.has(box.value);
      const again = [...holder.querySelectorAll("input, a")].find(
        (each) => focused && (each.value === focused || each.getAttribute("href") === focused),
      );
      again?.focus({ preventScroll: true });
    } catch (error) {
      notify(error.message, true);
    }
  }
  window.setTimeout(refresh, EVERY);
}

window.setTimeout(refresh, EVERY);
