// Parts of a page that open and close: which of them are open is remembered for all pages of the kind,
// and a link to one opens it.

const folds = [...document.querySelectorAll("details.fold")];

export function remember(key) {
  for (const [id, open] of Object.entries(read(key))) {
    const fold = folds.find((each) => each.id === id);
    if (fold) fold.open = open;
  }
  for (const fold of folds) {
    fold.addEventListener("toggle", () => {
      const known = { ...read(key), [fold.id]: fold.open };
      try {
        window.localStorage.setItem(key, JSON.stringify(known));
      } catch {
        // A browser that keeps nothing opens the page as it is for newcomers.
      }
    });
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();
}

function openTarget() {
  const fold = folds.find((each) => `#${each.id}` === window.location.hash);
  if (!fold) return;
  fold.open = true;
  fold.scrollIntoView({ block: "start" });
  fold.querySelector("summary").focus({ preventScroll: true });
}

function read(key) {
  try {
    return JSON.parse(window.localStorage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}
