// Choices of a new run that are explained: the task, and the strategy.

const type = document.getElementById("annotator-type");
const strategy = document.getElementById("selection-strategy");
const tasks = [...document.querySelectorAll("input[name=task]")];
const list = document.getElementById("strategies");
const FIXED = ["human", "dataset"]; // types that are tasks of their own

// `told` is called with the keys that a choice changed.
export function connect(told) {
  for (const task of tasks) {
    task.addEventListener("change", () => {
      type.value = FIXED.includes(task.value) ? task.value : "openai";
      told(["annotator.type"]);
    });
  }
  list.addEventListener("click", (event) => {
    const name = event.target.closest("[data-use]")?.dataset.use;
    if (!name) return;
    strategy.value = name;
    list.open = false;
    strategy.focus();
    told(["selection.strategy"]);
  });
}

// Shows the choices that the fields stand for; fields of other types of annotators are hidden, and not sent.
export function show() {
  const chosen = type.value || "dataset";
  const task = FIXED.includes(chosen) ? chosen : "model";
  for (const each of tasks) each.checked = each.value === task;
  type.closest(".field").hidden = task !== "model";
  for (const holder of document.querySelectorAll("[data-types]")) {
    holder.hidden = !holder.dataset.types.split(" ").includes(chosen);
  }
  const usual = list.querySelector("[data-default]");
  const item = strategy.value ? list.querySelector(`[data-strategy="${CSS.escape(strategy.value)}"]`) : usual;
  const holder = document.getElementById("strategy");
  holder.replaceChildren(...[...(item?.children ?? [])].slice(0, 3).map((each) => each.cloneNode(true)));
  if (item && item === usual) holder.append(Object.assign(document.createElement("p"), { className: "help", textContent: "Recommended where nothing speaks for another." }));
}

// Whether a field is sent: those of other annotators are not.
export function counts(field) {
  return field === type || !field.closest("[data-types][hidden]");
}
