// Parts of a page that the server draws: fetched when they come near the window, and again when they have changed.

import { request } from "./http.js";

// Fetches `path` into `holder`, whose markup is the server's own and escaped there.
export async function load(holder, path = holder.dataset.part) {
  const number = (holder.loads = (holder.loads ?? 0) + 1);
  holder.setAttribute("aria-busy", "true");
  try {
    const answer = await request("GET", path, undefined, { headers: { Accept: "text/html" } });
    const text = await answer.text();
    if (number !== holder.loads) return; // a later one is under way
    const open = new Set([...holder.querySelectorAll("details[open] > summary")].map((each) => each.textContent));
    holder.innerHTML = text;
    for (const summary of holder.querySelectorAll("summary")) {
      if (open.has(summary.textContent)) summary.parentElement.open = true;
    }
    holder.dataset.shown = path;
  } catch (error) {
    const line = document.createElement("p");
    line.className = "pending wrong";
    line.textContent = error.message;
    holder.replaceChildren(line);
  }
  holder.removeAttribute("aria-busy");
}

// Loads every `[data-part]` when it is about to be seen.
export function watch(holders) {
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        near.unobserve(entry.target);
        load(entry.target);
      }
    },
    { rootMargin: "400px" },
  );
  for (const holder of holders) near.observe(holder);
}

// Links and forms marked data-into change their part rather than the page.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-into]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  turn(link.closest("[data-part]"), link.href);
});
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-into]");
  if (!form) return;
  event.preventDefault();
  turn(form.closest("[data-part]"), `${form.action}?${new URLSearchParams(new FormData(form))}`);
});

async function turn(holder, path) {
  await load(holder, path);
  holder.tabIndex = -1;
  holder.focus({ preventScroll: true });
  holder.scrollIntoView({ block: "start" });
}
