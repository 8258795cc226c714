// Other tabs of this browser with the same run: which tasks they have, so that one is told where else a task is open,
// and none is given up that another still has.

import { makeKey } from "./store.js";

const ANNOUNCE = 30000; // milliseconds; a tab that was not heard of for three times as long is gone

export class Tabs {
  // `holds()` gives the ids of this tab's tasks and the one on its screen; `changed()` hears of others.
  constructor(run, person, { holds, changed }) {
    Object.assign(this, { holds, changed });
    this.own = makeKey();
    this.others = new Map();
    this.channel = new BroadcastChannel(`atgen/${run}/${person}`);
    this.channel.addEventListener("message", ({ data }) => this.hear(data));
    this.channel.postMessage({ tab: this.own, hello: true });
    window.setInterval(() => this.announce(), ANNOUNCE);
  }

  announce() {
    const { ids, shown } = this.holds();
    const text = JSON.stringify([ids, shown]);
    if (text === this.said && Date.now() - this.saidAt < ANNOUNCE / 2) return;
    Object.assign(this, { said: text, saidAt: Date.now() });
    this.channel.postMessage({ tab: this.own, ids, shown });
  }

  hear({ tab, hello, bye, ids, shown }) {
    if (bye) this.others.delete(tab);
    else if (!hello) this.others.set(tab, { ids, shown, at: Date.now() });
    if (hello) this.said = null;
    if (hello) this.announce();
    this.changed();
  }

  leave() {
    this.channel.postMessage({ tab: this.own, bye: true });
  }

  get current() {
    return [...this.others.values()].filter((each) => Date.now() - each.at < 3 * ANNOUNCE);
  }

  shows(id) {
    return this.current.some((each) => each.shown === id);
  }

  has(id) {
    return this.current.some((each) => each.ids.includes(id));
  }
}
