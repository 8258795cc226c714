// Answers that the server has not confirmed: kept in this browser, sent in order, and again until it does.
// Each carries a key, so that one which arrived although its receipt was lost counts once.

import { requestJson } from "./http.js";
import { makeKey } from "./store.js";

const LONGEST = 15000; // milliseconds between two tries
const AGAIN = new Set([0, 408, 425, 429]);

export class Outbox {
  // `sent(entry, answer)` hears of each receipt, `refused(entry, error)` of each refusal, `changed()` of all else.
  constructor(store, path, { sent, refused, changed }) {
    Object.assign(this, { store, path, sent, refused, changed });
    this.wait = 1000;
    this.busy = false;
    this.timer = null;
    window.addEventListener("online", () => this.flush());
  }

  get entries() {
    return this.store.get("outbox", []);
  }

  // What the person last did with a task that is still to be sent.
  pending(id) {
    return this.entries.findLast((entry) => entry.id === id);
  }

  push(id, verb, body) {
    this.store.set("outbox", [...this.entries, { id, verb, body, key: makeKey() }]);
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
        this.drop(entry);
        this.sent(entry, answer);
      } catch (error) {
        if (AGAIN.has(error.status) || error.status === 401 || !(error.status < 500)) {
          this.timer = window.setTimeout(() => this.flush(), this.wait);
          this.wait = Math.min(LONGEST, this.wait * 2);
          break;
        }
        this.drop(entry);
        this.refused(entry, error);
      }
      this.wait = 1000;
    }
    this.busy = false;
    this.changed();
  }

  drop(entry) {
    this.store.set("outbox", this.entries.filter((each) => each.key !== entry.key));
  }
}
