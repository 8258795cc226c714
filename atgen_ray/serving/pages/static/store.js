// What this browser keeps of one person's work on one run, over reloads and crashes.

const KEPT = 14 * 86400000; // milliseconds for which a text is kept that belongs to no task at hand

export class Store {
  constructor(run, person) {
    this.prefix = `atgen/${run}/${person}/`;
  }

  get(name, fallback = null) {
    const text = window.localStorage.getItem(this.prefix + name);
    return text === null ? fallback : JSON.parse(text);
  }

  // Throws where the browser has no room left.
  set(name, value) {
    window.localStorage.setItem(this.prefix + name, JSON.stringify(value));
  }

  remove(name) {
    window.localStorage.removeItem(this.prefix + name);
  }

  // Names that begin with `start`, sorted.
  names(start) {
    const all = Object.keys(window.localStorage).filter((name) => name.startsWith(this.prefix + start));
    return all.map((name) => name.slice(this.prefix.length)).sort();
  }

  // Hears what another tab of this browser has changed: a name, and its value or null.
  watch(heard) {
    window.addEventListener("storage", (event) => {
      if (event.key?.startsWith(this.prefix)) heard(event.key.slice(this.prefix.length), JSON.parse(event.newValue ?? "null"));
    });
  }

  // Removes texts that nobody has come back to.
  forget(start) {
    for (const name of this.names(start)) {
      if (!(this.get(name)?.at > Date.now() - KEPT)) this.remove(name);
    }
  }
}

// A key that nobody makes twice; crypto.randomUUID is only there behind TLS.
export function makeKey() {
  return [...window.crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
