// The tasks on one person's desk: fetched, kept in step with the server, their drafts saved here first and there after.

import { requestJson } from "./http.js";
import { Outbox } from "./outbox.js";

const AHEAD = 1; // tasks that are there before they are wanted
const SAVE_AFTER = 700; // milliseconds without a key
const TRY_AGAIN = 2000;
const STATES = { submit: "submitted", skip: "skipped", flag: "flagged", undo: "leased" };

export class Desk {
  // `changed(task)` hears when a task (or, without one, anything else) looks different; `told(text)` is for the person.
  constructor(run, store, { changed, told }) {
    Object.assign(this, { store, changed, told });
    this.path = `/api/v1/runs/${run}/tasks`;
    this.tasks = [];
    this.progress = null;
    this.reached = true;
    this.time = 0; // counts what was asked and what was answered
    this.confirmed = new Map(); // when the server was last heard to have an answer to a task
    this.outbox = new Outbox(store, this.path, {
      sent: (entry, answer) => this.confirm(entry, answer),
      refused: (entry, error) => this.refuse(entry, error),
      changed: () => this.changed(),
    });
  }

  // What was on the desk before, here or in another browser.
  async open() {
    await this.look("GET", this.path);
    this.outbox.flush();
    for (const task of this.tasks) if (this.store.get(`draft/${task.id}`) && this.isOpen(task)) this.save(task);
  }

  isOpen(task) {
    return task.state === "leased" && !task.closed;
  }

  // Leases until a task lies ahead of `index`, one of those there or the next to come.
  async fill(index) {
    const ahead = this.tasks.slice(index).filter((task) => this.isOpen(task)).length;
    if (ahead > AHEAD) return;
    const besides = this.tasks.filter((task) => this.isOpen(task)).map((task) => task.id);
    await this.look("POST", `${this.path}/lease`, { count: 1 + AHEAD - ahead, besides: besides.slice(-200) });
  }

  // Adopts the tasks that the server tells of. Of one that was answered while it was asked, it tells the past.
  async look(method, path, body) {
    const asked = ++this.time;
    const { tasks, progress } = await requestJson(method, path, body);
    this.progress = progress;
    for (const task of tasks) if (!(this.confirmed.get(task.id) > asked)) this.adopt(task);
    this.changed();
  }

  // The server's view of a task, with what this browser knows better.
  adopt(task) {
    const kept = this.store.get(`draft/${task.id}`);
    const known = this.tasks.find((each) => each.id === task.id);
    const pending = this.outbox.pending(task.id);
    task.until = Date.now() + task.lease_seconds * 1000;
    task.spent = known?.spent ?? kept?.spent ?? 0;
    task.revision = Math.max(task.revision, kept?.revision ?? 0, known?.revision ?? 0);
    const answered = task.state === "submitted" ? task.text : null;
    task.answer = answered ?? kept?.text ?? task.draft ?? task.suggestion?.text ?? "";
    if (pending) task.state = STATES[pending.verb];
    if (known) Object.assign(known, task);
    else this.tasks.push(task);
    this.changed(known ?? task);
  }

  // What was typed: into this browser at once, to the server a moment later.
  type(task, text) {
    task.answer = text;
    task.revision += 1;
    this.keep(task);
    window.clearTimeout(task.timer);
    task.timer = window.setTimeout(() => this.save(task), SAVE_AFTER);
    this.changed();
  }

  keep(task) {
    this.store.set(`draft/${task.id}`, { text: task.answer, revision: task.revision, spent: task.spent });
  }

  isSaved(task) {
    return !this.store.get(`draft/${task.id}`);
  }

  async save(task) {
    window.clearTimeout(task.timer);
    if (!this.isOpen(task) || task.saving || this.outbox.pending(task.id)) return;
    task.saving = true;
    const { answer: text, revision } = task;
    try {
      const saved = await requestJson("PUT", `${this.path}/${task.id}/draft`, { text, revision });
      this.reached = true;
      if (task.revision === revision) this.store.remove(`draft/${task.id}`);
      if (!this.outbox.pending(task.id) && this.isOpen(task)) {
        Object.assign(task, { suggestion: saved.suggestion, blind: saved.blind, closed: saved.closed });
        task.until = Date.now() + saved.lease_seconds * 1000;
      }
    } catch (error) {
      this.reached = error.status !== 0;
      if (error.status === 409) this.told(error.message, true);
      else task.timer = window.setTimeout(() => this.save(task), TRY_AGAIN);
    }
    task.saving = false;
    if (this.reached && task.revision !== revision) task.timer = window.setTimeout(() => this.save(task), SAVE_AFTER);
    this.changed(task);
  }

  // Submits, skips or flags; the person goes on at once.
  answer(task, verb, body) {
    window.clearTimeout(task.timer);
    this.keep(task);
    task.state = STATES[verb];
    this.store.set("answered", [...this.answered.filter((id) => id !== task.id), task.id].slice(-50));
    this.outbox.push(task.id, verb, body);
  }

  get answered() {
    return this.store.get("answered", []);
  }

  // Takes the last answer back; its task, or undefined where there is none.
  undo() {
    const id = this.answered.findLast((each) => this.tasks.some((task) => task.id === each && !task.closed));
    const task = this.tasks.find((each) => each.id === id);
    if (!task) return undefined;
    this.store.set("answered", this.answered.filter((each) => each !== id));
    task.state = "leased";
    task.revision += 1;
    this.keep(task);
    this.outbox.push(id, "undo");
    return task;
  }

  confirm(entry, answer) {
    this.reached = true;
    this.confirmed.set(entry.id, ++this.time);
    if (!this.outbox.pending(entry.id)) {
      if (entry.verb === "undo") {
        const { answer: text } = this.tasks.find((task) => task.id === entry.id) ?? {};
        this.adopt(answer);
        if (text !== undefined) this.type(this.tasks.find((task) => task.id === entry.id), text);
      } else {
        this.store.remove(`draft/${entry.id}`);
        this.adopt(answer);
      }
    }
    this.measure();
  }

  async refuse(entry, error) {
    this.told(error.message, true);
    this.store.set("answered", this.answered.filter((id) => id !== entry.id));
    try {
      await this.look("GET", this.path);
    } catch {
      this.reached = false;
    }
  }

  async measure() {
    try {
      this.progress = await requestJson("GET", `${this.path}/progress`);
      this.changed();
    } catch (error) {
      this.reached = error.status !== 0;
    }
  }
}
