// Keys of the page: what each does by default, and what the person chose in this browser instead.

const NAME = "atgen/keys";
export const DEFAULTS = {
  submit: "Ctrl+Enter", save: "Ctrl+S", next: "Alt+N", previous: "Alt+P", take: "Alt+L", skip: "Alt+K", flag: "Alt+X", undo: "Alt+Z",
  compare: "Alt+C", guidelines: "Alt+G", remark: "Alt+R", why: "Alt+W", more: "Alt+M", help: "Alt+H",
};

// The keys of an event as one writes them; empty for a key that cannot be chosen. The command key of a Mac is Ctrl.
export function describe(event) {
  const code = event.code.replace(/^(Key|Digit)/, "");
  const alone = /^F\d+$/.test(code);
  const command = event.ctrlKey || event.metaKey;
  if (/^(Control|Alt|Shift|Meta|Tab|Escape)/.test(code) || (!alone && !command && !event.altKey)) return "";
  return [command && "Ctrl", event.altKey && "Alt", event.shiftKey && "Shift", code].filter(Boolean).join("+");
}

export class Keys {
  constructor() {
    this.chosen = JSON.parse(window.localStorage.getItem(NAME) ?? "{}");
  }

  of(action) {
    return this.chosen[action] ?? DEFAULTS[action];
  }

  // The action of an event's keys.
  find(event) {
    const keys = describe(event);
    return keys && Object.keys(DEFAULTS).find((action) => this.of(action) === keys);
  }

  // Chooses keys, and gives what stands against it.
  choose(action, keys) {
    const other = Object.keys(DEFAULTS).find((each) => each !== action && this.of(each) === keys);
    if (other) return other;
    this.chosen[action] = keys;
    window.localStorage.setItem(NAME, JSON.stringify(this.chosen));
    return null;
  }

  reset() {
    this.chosen = {};
    window.localStorage.removeItem(NAME);
  }
}

// Shows the keys on buttons and in the dialog, whose buttons take the next keys that are pressed.
export function openKeys(keys, dialog, told) {
  const said = dialog.querySelector("[data-said]");
  let waits = null;
  const draw = () => {
    for (const each of document.querySelectorAll("[data-keys]")) each.textContent = keys.of(each.dataset.keys);
    for (const each of document.querySelectorAll("button[data-act]")) {
      if (DEFAULTS[each.dataset.act]) each.setAttribute("aria-keyshortcuts", keys.of(each.dataset.act).replace("Ctrl", "Control"));
    }
    for (const each of dialog.querySelectorAll("[data-choose]")) each.setAttribute("aria-pressed", String(each.dataset.choose === waits));
  };
  dialog.addEventListener("click", (event) => {
    const choose = event.target.closest("[data-choose]")?.dataset.choose;
    if (choose) {
      waits = waits === choose ? null : choose;
      said.textContent = waits ? "Press the new keys: with Ctrl or Alt, or a function key. Esc leaves them as they are." : "";
    } else if (event.target.closest("[data-reset]")) {
      keys.reset();
      waits = null;
      said.textContent = "All keys are as they were at first.";
    }
    draw();
  });
  dialog.addEventListener("keydown", (event) => {
    if (!waits) return;
    if (event.key === "Escape") event.preventDefault();
    const pressed = describe(event);
    if (!pressed && event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    const other = pressed && keys.choose(waits, pressed);
    const name = (action) => dialog.querySelector(`[data-name="${action}"]`).textContent;
    said.textContent = !pressed ? "" : other ? `${pressed} is taken: ${name(other)}.` : `${pressed} is chosen.`;
    waits = null;
    draw();
  });
  draw();
  return () => {
    said.textContent = "";
    dialog.showModal();
  };
}
