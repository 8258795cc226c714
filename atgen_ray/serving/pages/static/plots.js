// Values of plots: those of the point under the pointer, or of the one that the arrow keys have come to.

const points = (plot) => [...plot.querySelectorAll(".point")];

// Follows every plot below `root` that has points, also those that are drawn later.
export function follow(root) {
  prepare(root);
  new MutationObserver(() => prepare(root)).observe(root, { childList: true, subtree: true });
}

function prepare(root) {
  for (const plot of root.querySelectorAll("svg.plot:not([tabindex])")) {
    if (!points(plot).length) continue;
    plot.setAttribute("tabindex", "0");
    const value = document.createElement("p");
    value.className = "value";
    value.setAttribute("aria-live", "polite");
    plot.after(value);
    plot.addEventListener("pointermove", (event) => show(plot, nearest(plot, event)));
    plot.addEventListener("pointerleave", () => show(plot, -1));
    plot.addEventListener("blur", () => show(plot, -1));
    plot.addEventListener("keydown", (event) => step(plot, event));
  }
}

function step(plot, event) {
  const last = points(plot).length - 1;
  const at = points(plot).findIndex((point) => point.classList.contains("at"));
  const targets = { ArrowRight: Math.min(last, at + 1), ArrowLeft: Math.max(0, at - 1), Home: 0, End: last };
  if (!(event.key in targets)) return;
  event.preventDefault();
  show(plot, targets[event.key]);
}

function nearest(plot, event) {
  const distances = points(plot).map((point) => {
    const box = point.getBoundingClientRect();
    return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
  });
  const least = Math.min(...distances);
  return least < 30 ? distances.indexOf(least) : -1; // pixels
}

function show(plot, index) {
  points(plot).forEach((point, place) => point.classList.toggle("at", place === index));
  plot.nextElementSibling.textContent = index < 0 ? "" : points(plot)[index].querySelector("title").textContent;
}
