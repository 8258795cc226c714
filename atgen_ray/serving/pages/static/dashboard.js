// The list of runs is asked for again while one of them goes on; ticks, focus, search and order stay.

import { request } from "./http.js";
import { notify } from "./shell.js";

const holder = document.getElementById("runs");
const form = document.getElementById("compare");
const find = document.getElementById("find");
const EVERY = 4000; // milliseconds
const TEXTS = ["name", "status", "updated"];
let order = null; // { key, direction } of the column that was pressed last

form.addEventListener("submit", (event) => {
  if (document.activeElement === find) return event.preventDefault();
  if (form.querySelectorAll("input:checked").length >= 2) return;
  event.preventDefault();
  notify("Tick two or more runs to compare them.", true);
});

find?.addEventListener("input", arrange);
holder.addEventListener("click", (event) => {
  const column = event.target.closest("th[data-sort]");
  if (!column) return;
  const { sort, first } = column.dataset;
  const other = order?.direction === "ascending" ? "descending" : "ascending";
  order = { key: sort, direction: order?.key === sort ? other : first };
  arrange();
});

// Shows the rows that match what is looked for, in the order that was asked for.
function arrange() {
  const body = holder.querySelector("tbody");
  if (!body) return;
  const words = (find?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...body.rows];
  for (const row of rows) {
    const text = `${row.dataset.name} ${row.dataset.also} ${row.dataset.status}`;
    row.hidden = !words.every((word) => text.includes(word));
  }
  document.getElementById("nothing").hidden = rows.some((row) => !row.hidden);
  if (!order) return;
  const sign = order.direction === "ascending" ? 1 : -1;
  body.append(...rows.sort((one, other) => sign * compare(one, other)));
  for (const column of holder.querySelectorAll("th[data-sort]")) {
    if (column.dataset.sort === order.key) column.setAttribute("aria-sort", order.direction);
    else column.removeAttribute("aria-sort");
  }
}

function compare(one, other) {
  const [left, right] = [one.dataset[order.key], other.dataset[order.key]];
  if (TEXTS.includes(order.key)) return left.localeCompare(right);
  return (left === "" ? -Infinity : Number(left)) - (right === "" ? -Infinity : Number(right)) || 0;
}

async function refresh() {
  const going = Number(document.getElementById("runs-state").dataset.going);
  if (going && !document.hidden) {
    try {
      const path = `/parts/runs${window.location.search}`;
      const answer = await request("GET", path, undefined, { headers: { Accept: "text/html" } });
      const text = await answer.text();
      const ticked = new Set([...holder.querySelectorAll("input:checked")].map((box) => box.value));
      const focused = nameOf(document.activeElement);
      holder.innerHTML = text;
      for (const box of holder.querySelectorAll("input")) box.checked = ticked.has(box.value);
      arrange();
      const again = [...holder.querySelectorAll("input, a, button")].find((each) => focused && nameOf(each) === focused);
      again?.focus({ preventScroll: true });
    } catch (error) {
      notify(error.message, true);
    }
  }
  window.setTimeout(refresh, EVERY);
}

// What tells a control of the list from the others, also after it was drawn anew.
function nameOf(element) {
  if (!element || !holder.contains(element)) return null;
  return element.value || element.getAttribute("href") || element.textContent;
}

window.setTimeout(refresh, EVERY);
