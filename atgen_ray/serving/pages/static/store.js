// What this browser keeps of one person's work on one run, over reloads and crashes.

export class Store {
  constructor(run, person) {
    this.prefix = `atgen/${run}/${person}/`;
  }

  get(name, fallback = null) {
    const text = window.localStorage.getItem(this.prefix + name);
    return text === null ? fallback : JSON.parse(text);
  }

  set(name, value) {
    window.localStorage.setItem(this.prefix + name, JSON.stringify(value));
  }

  remove(name) {
    window.localStorage.removeItem(this.prefix + name);
  }
}

// A key that nobody makes twice; crypto.randomUUID is only there behind TLS.
export function makeKey() {
  return [...window.crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
