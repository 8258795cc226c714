// The tasks on one person's desk: one in hand, two prepared, those answered before, and those only looked at. Drafts are
// saved here first and on the server after.

import { request, requestJson } from "./http.js";
import { Outbox } from "./outbox.js";

const AHEAD = 2; // tasks that are there before they are wanted
const SAVE_AFTER = 700; // milliseconds without a key
const TRY_AGAIN = 2000;
const BACK = 20; // answers that are fetched at once
const ANSWERS = { submit: "submitted", skip: "skipped", flag: "flagged" };
const STATES = { ...ANSWERS, undo: "leased" };

export class Desk {
  // `changed(task)` hears when a task (or, without one, anything else) looks different; `told(text)` is for the person.
  constructor(run, store, { changed, told }) {
    Object.assign(this, { store, changed, told });
    this.path = `/api/v1/runs/${run}/tasks`;
    this.tasks = []; // in the order of the screen
    this.progress = null;
    this.reached = true;
    this.signedOut = false;
    this.time = 0; // counts what was asked and what was answered
    this.confirmed = new Map(); // when the server was last heard to have an answer to a task
    this.outbox = new Outbox(store, this.path, {
      sent: (entry, answer) => this.confirm(entry, answer),
      refused: (entry, error) => this.refuse(entry, error),
      waiting: (error) => this.miss(error),
      changed: () => this.changed(),
    });
    store.watch((name, value) => this.hear(name, value));
  }

  find(id) {
    return this.tasks.find((task) => task.id === id);
  }

  isOpen(task) {
    return task.state === "leased" && !task.closed;
  }

  isAnswered(task) {
    return Object.values(ANSWERS).includes(task.state);
  }

  // Whether the person may write: into a task in hand, or over an own answer until the run trains on it.
  isWritable(task) {
    return task.state !== "open" && !task.closed;
  }

  // What went wrong on the way; a refusal is told.
  miss(error) {
    this.reached = error.status !== 0;
    if (error.status === 401) this.signedOut = true;
    this.changed();
  }

  async open() {
    this.store.forget("draft/");
    this.store.forget("other/");
    this.outbox.flush();
    await this.fill(null);
    for (const task of this.tasks) if (this.store.get(`draft/${task.id}`) && this.isOpen(task)) this.save(task);
  }

  // Renews the lease on the task in hand, and prepares the next ones. Those that others were given meanwhile go.
  async fill(hand) {
    if (this.filling) return (this.again = { hand });
    this.filling = this.lease(hand);
    try {
      await this.filling;
    } finally {
      this.filling = null;
    }
    if (this.again) {
      const next = this.again;
      this.again = null;
      await this.fill(next.hand);
    }
    return undefined;
  }

  async lease(hand) {
    const besides = [...new Set(this.outbox.entries.map((entry) => entry.id))].slice(-200);
    const asked = this.tasks.filter((task) => this.isOpen(task));
    const body = { count: 1 + AHEAD, ahead: AHEAD, besides, hand: hand?.id ?? null };
    const found = await this.look("POST", `${this.path}/lease`, body);
    for (const task of asked) {
      if (found.has(task.id) || task === hand || !this.isOpen(task) || this.store.get(`draft/${task.id}`)) continue;
      if (!task.opened) this.tasks.splice(this.tasks.indexOf(task), 1);
    }
    if (hand && this.isOpen(hand) && !found.has(hand.id) && !besides.includes(hand.id)) hand.until = 0;
    this.changed();
  }

  // Adopts the tasks that the server tells of. Of one that was answered while it was asked, it tells the past.
  async look(method, path, body) {
    const asked = ++this.time;
    const { tasks, progress } = await requestJson(method, path, body);
    this.reached = true;
    this.progress = progress ?? this.progress;
    for (const task of tasks) if (!(this.confirmed.get(task.id) > asked)) this.adopt(task);
    this.changed();
    return new Set(tasks.map((task) => task.id));
  }

  // The person's earlier answers, before all that are here; false where there are none.
  async goBack() {
    const first = this.tasks.find((task) => this.isAnswered(task) && !this.outbox.pending(task.id));
    const before = first ? `&before=${first.id}` : "";
    const { tasks } = await requestJson("GET", `${this.path}?limit=${BACK}${before}`);
    const fresh = tasks.filter((task) => task.state !== "leased" && !this.find(task.id));
    for (const task of fresh) this.adopt(task);
    const earlier = fresh.map((task) => this.find(task.id));
    this.tasks = [...earlier, ...this.tasks.filter((task) => !earlier.includes(task))];
    return fresh.length > 0;
  }

  // Open tasks behind all that are here, to look at; false where there are none.
  async lookAhead() {
    const last = this.tasks.findLast((task) => task.state === "open" || task.state === "leased");
    const { tasks } = await requestJson("GET", `${this.path}/open${last ? `?after=${last.id}` : ""}`);
    const fresh = tasks.filter((task) => !this.find(task.id));
    for (const task of fresh) this.adopt(task);
    return fresh.length > 0;
  }

  // Leases a task that was only looked at.
  async take(task) {
    this.adopt(await requestJson("POST", `${this.path}/${task.id}/lease`));
    return this.find(task.id);
  }

  // The server's view of a task, with what this browser knows better.
  adopt(task) {
    const kept = this.store.get(`draft/${task.id}`);
    const known = this.find(task.id);
    const pending = this.outbox.pending(task.id);
    const stale = known && known.revision > task.revision; // told before the server had what was typed here
    task.until = Date.now() + task.lease_seconds * 1000;
    task.spent = known?.spent ?? kept?.spent ?? 0;
    task.revision = Math.max(task.revision, kept?.revision ?? 0, known?.revision ?? 0);
    if (pending) task.state = STATES[pending.verb];
    const given = pending?.body?.text ?? task.text;
    // A text that is kept here is newer than what the server has; without one, an open task is as it was left.
    const draft = stale ? known.answer : (task.draft ?? task.suggestion?.text);
    task.answer = kept?.text ?? (task.state === "submitted" ? given : draft) ?? "";
    // Typed here, and written over in another browser of this person.
    const written = known && this.isOpen(known) && known.revision < task.revision && known.answer !== task.answer;
    if (written && known.revision > 0) this.keepOther(task, known.answer);
    if (known) Object.assign(known, task);
    else this.tasks.push(task);
    this.changed(known ?? task);
  }

  // What was typed: into this browser at once, to the server a moment later. Over an answer, only with the next Submit.
  type(task, text) {
    task.answer = text;
    task.revision += 1;
    task.typed = true;
    this.keep(task);
    window.clearTimeout(task.timer);
    if (this.isOpen(task)) task.timer = window.setTimeout(() => this.save(task), SAVE_AFTER);
    this.changed();
  }

  keep(task) {
    const draft = { text: task.answer, revision: task.revision, spent: task.spent, at: Date.now() };
    try {
      this.store.set(`draft/${task.id}`, draft);
    } catch {
      this.told("This browser has no room to keep what you type: submit before you leave the page.", true);
    }
  }

  isSaved(task) {
    return !this.store.get(`draft/${task.id}`);
  }

  // What another tab of this browser wrote: the latest text counts, and what was typed here alone is kept beside it.
  hear(name, value) {
    const [kind, id] = name.split("/");
    const task = this.find(id);
    if (kind === "draft" && task && value && value.revision >= task.revision && value.text !== task.answer) {
      if (task.typed && value.revision === task.revision) this.keepOther(task, task.answer);
      Object.assign(task, { answer: value.text, revision: value.revision, typed: false });
      window.clearTimeout(task.timer);
      this.changed(task);
    }
    if (kind === "outbox" && value && this.find(value.id)) {
      this.find(value.id).state = STATES[value.verb];
      this.changed(this.find(value.id));
    }
  }

  keepOther(task, text) {
    this.store.set(`other/${task.id}`, { text, at: Date.now() });
  }

  // Another text of this task, which was typed elsewhere; null where there is none.
  other(task) {
    return this.store.get(`other/${task.id}`)?.text ?? null;
  }

  // Changes the two texts of a task.
  exchange(task) {
    const text = this.other(task);
    if (text === null) return;
    this.keepOther(task, task.answer);
    this.type(task, text);
    this.changed(task);
  }

  // Sends the draft; while one is under way, waits for that.
  async save(task) {
    window.clearTimeout(task.timer);
    if (!this.isOpen(task) || this.outbox.pending(task.id)) return;
    task.saving ??= this.send(task).finally(() => (task.saving = null));
    await task.saving;
  }

  async send(task) {
    const { answer: text, revision } = task;
    try {
      const saved = await requestJson("PUT", `${this.path}/${task.id}/draft`, { text, revision });
      this.reached = true;
      if (saved.revision > revision && saved.draft !== text) {
        // Another browser of this person was there: what is here is the latest.
        this.keepOther(task, saved.draft ?? "");
        task.revision = Math.max(task.revision, saved.revision) + 1;
        this.keep(task);
      } else if (task.revision === revision) {
        this.store.remove(`draft/${task.id}`);
        task.typed = false;
      }
      if (!this.outbox.pending(task.id) && this.isOpen(task)) {
        Object.assign(task, { suggestion: saved.suggestion, blind: saved.blind, closed: saved.closed });
        task.until = Date.now() + saved.lease_seconds * 1000;
      }
    } catch (error) {
      this.miss(error);
      if (error.status === 409) this.told(error.message, true);
      else task.timer = window.setTimeout(() => this.save(task), TRY_AGAIN);
    }
    if (this.reached && task.revision !== revision) task.timer = window.setTimeout(() => this.save(task), SAVE_AFTER);
    this.changed(task);
  }

  // Submits, skips or flags; the person goes on at once.
  answer(task, verb, body) {
    window.clearTimeout(task.timer);
    this.keep(task);
    task.state = STATES[verb];
    this.last = task;
    this.outbox.push(task.id, verb, body);
  }

  // Takes the answer to a task back, which is to be written again.
  undo(task) {
    task.state = "leased";
    task.revision += 1;
    this.keep(task);
    this.outbox.push(task.id, "undo");
  }

  confirm(entry, answer) {
    this.reached = true;
    this.confirmed.set(entry.id, ++this.time);
    if (!this.outbox.pending(entry.id)) {
      const task = this.find(entry.id);
      const changed = task && entry.verb === "submit" && task.answer !== entry.body.text;
      if (entry.verb === "undo") {
        const text = task?.answer;
        this.adopt(answer);
        if (text !== undefined) this.type(this.find(entry.id), text);
      } else {
        if (!changed) this.store.remove(`draft/${entry.id}`); // else it was written over meanwhile
        this.store.remove(`other/${entry.id}`);
        if (task) this.adopt(answer);
      }
    }
    this.measure();
  }

  async refuse(entry, error) {
    this.told(error.message, true);
    try {
      await this.look("GET", `${this.path}?limit=${BACK}`);
    } catch (missed) {
      this.miss(missed);
    }
  }

  async measure() {
    try {
      this.progress = await requestJson("GET", `${this.path}/progress`);
      this.changed();
    } catch (error) {
      this.miss(error);
    }
  }

  // Gives up what `keeps(id)` does not want, as the page is left.
  leave(keeps) {
    const ids = this.tasks.filter((task) => this.isOpen(task) && !keeps(task.id) && !this.outbox.pending(task.id));
    if (!ids.length) return;
    request("POST", `${this.path}/release`, { ids: ids.map((task) => task.id).slice(-50) }, { keepalive: true }).catch(() => {});
  }
}
