// Answers that the server has not confirmed: kept in this browser, sent in order, and again until it does.
// Each is an entry of its own, so that two tabs lose none, and carries a key, so that one which arrived although
// its receipt was lost counts once.

import { requestJson } from "./http.js";
import { makeKey } from "./store.js";

const LONGEST = 15000; // milliseconds between two tries
const AGAIN = new Set([0, 401, 408, 425, 429]);
const START = "outbox/";

export class Outbox {
  // `sent(entry, answer)` hears of each receipt, `refused(entry, error)` of each refusal, `waiting(error)` of what is
  // tried again, `changed()` of all else.
  constructor(store, path, { sent, refused, waiting, changed }) {
    Object.assign(this, { store, path, sent, refused, waiting, changed });
    this.wait = 1000;
    this.busy = false;
    this.timer = null;
    this.count = 0;
    window.addEventListener("online", () => this.flush());
  }

  get entries() {
    return this.store.names(START).map((name) => ({ ...this.store.get(name), name }));
  }

  // What the person last did with a task that is still to be sent.
  pending(id) {
    return this.entries.findLast((entry) => entry.id === id);
  }

  push(id, verb, body) {
    const key = makeKey();
    this.count += 1;
    const place = `${String(Date.now()).padStart(15, "0")}-${String(this.count).padStart(6, "0")}`;
    this.store.set(`${START}${place}-${key}`, { id, verb, body, key });
    this.changed();
    this.flush();
  }

  async flush() {
    if (this.busy) return;
    this.busy = true;
    window.clearTimeout(this.timer);
    for (let entry = this.entries[0]; entry; entry = this.entries[0]) {
      try {
        const headers = { "Idempotency-Key": entry.key };
        const answer = await requestJson("POST", `${this.path}/${entry.id}/${entry.verb}`, entry.body, { headers });
        this.store.remove(entry.name);
        this.sent(entry, answer);
      } catch (error) {
        if (AGAIN.has(error.status) || !(error.status < 500)) {
          this.timer = window.setTimeout(() => this.flush(), this.wait);
          this.wait = Math.min(LONGEST, this.wait * 2);
          this.waiting(error);
          break;
        }
        this.store.remove(entry.name);
        this.refused(entry, error);
      }
      this.wait = 1000;
    }
    this.busy = false;
    this.changed();
  }
}
