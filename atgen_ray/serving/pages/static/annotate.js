// The page on which people label: shows one task of the desk, and does what keys and buttons say.

import { Desk } from "./desk.js";
import { showDifference } from "./difference.js";
import { Display, preview } from "./display.js";
import { Guide, openRemarks } from "./guide.js";
import { Keys, openKeys } from "./keys.js";
import { describeProgress } from "./pace.js";
import { askForSession } from "./session.js";
import { notify } from "./shell.js";
import { Store } from "./store.js";
import { Tabs } from "./tabs.js";

const find = (id) => document.getElementById(id);
const button = (action) => document.querySelector(`[data-act="${action}"]`);
const root = find("annotate");
const { run, person } = root.dataset;
const answer = find("answer");
const IDLE = 60000; // milliseconds after which nobody is at work
const READS = 180000; // milliseconds for which somebody may read without a key
const RENEW = 60000;
const LOOK_AGAIN = [4000, 30000]; // while nothing is open: at first, and at last
let task = null; // on the screen
let shown = null; // id of the task that the answer box belongs to
let fresh = null; // the task that came up after an answer, until something is typed
let active = Date.now();
let renewed = Date.now();

const display = new Display(run, find("input"), find("context"));
const drawPreview = preview(run, answer, find("preview"));
const store = new Store(run, person);
const keys = new Keys();
const guide = new Guide(run, store, find("guidelines"), {
  changed: (version) => {
    notify(`The guidelines have changed: version ${version}.`);
    drawToggle("guidelines", "guidelines");
  },
});
drawToggle("guidelines", "guidelines");
const signIn = askForSession(find("session"), person, () => {
  notify("You are signed in again.");
  desk.signedOut = false;
  desk.outbox.flush();
  for (const each of desk.tasks) if (!desk.isSaved(each)) desk.save(each);
  fill();
});
const desk = new Desk(run, store, {
  changed: (changed) => {
    if (changed && desk.isOpen(changed)) display.prepare(changed.id);
    if (changed && changed === task && task.answer !== answer.value) fillAnswer();
    draw();
  },
  told: notify,
});
const tabs = new Tabs(run, person, {
  holds: () => ({ ids: desk.tasks.filter((each) => desk.isOpen(each)).map((each) => each.id), shown: task?.id ?? null }),
  changed: () => draw(),
});

const ACTIONS = {
  submit: () => act("submit"),
  save: async () => {
    const saved = task;
    if (!saved) return;
    await desk.save(saved);
    if (!desk.isSaved(saved)) await desk.save(saved); // what was typed while the draft before was under way
    if (desk.isSaved(saved)) notify("Draft saved.");
  },
  skip: () => ask("skip"),
  flag: () => ask("flag"),
  next: () => go(1),
  previous: () => go(-1),
  take,
  undo,
  exchange: () => desk.exchange(task),
  compare: () => {
    toggle("difference", "compare");
    find("difference").scrollIntoView({ block: "nearest" });
  },
  preview: () => {
    toggle("preview", "preview");
    if (!find("preview").hidden) drawPreview();
  },
  guidelines: () => {
    toggle("guidelines", "guidelines");
    if (find("guidelines").hidden) guide.understood();
  },
  remark: openRemarks(run, find("remark-dialog"), () => task, notify),
  why: () => {
    find("why").open = !find("why").open;
    find("why").scrollIntoView({ block: "nearest" });
  },
  more: () => {
    find("more").open = !find("more").open;
    find("more").querySelector(find("more").open ? "div button:enabled" : "summary").focus();
  },
  help: openKeys(keys, find("help"), notify),
  renew: () => fill(),
  session: signIn,
  close: () => document.querySelector("dialog[open]").close(),
};

document.addEventListener("keydown", (event) => {
  active = Date.now();
  const dialog = document.querySelector("dialog[open]");
  const action = keys.find(event);
  if (dialog) {
    if (action !== "submit") return;
    event.preventDefault();
    dialog.querySelector("button.primary")?.click();
  } else if (action) {
    event.preventDefault();
    ACTIONS[action]();
  } else if (event.key === "Escape" && find("more").open) {
    ACTIONS.more();
  } else if (event.key === "?" && !/^(TEXTAREA|INPUT)$/.test(event.target.tagName)) {
    event.preventDefault();
    ACTIONS.help();
  }
});
for (const kind of ["pointerdown", "wheel", "pointermove"]) document.addEventListener(kind, () => (active = Date.now()), { passive: true });
document.addEventListener("click", (event) => {
  ACTIONS[event.target.closest("button[data-act]")?.dataset.act]?.();
  if (!event.target.closest("#more > summary")) find("more").open = false;
});
answer.addEventListener("input", () => {
  fresh = null;
  if (task && desk.isWritable(task)) desk.type(task, answer.value);
});

function toggle(id, action) {
  find(id).hidden = !find(id).hidden;
  drawToggle(id, action);
  draw();
}

function drawToggle(id, action) {
  button(action).setAttribute("aria-expanded", String(!find(id).hidden));
}

function act(verb, note) {
  if (!task || !desk.isWritable(task)) return notify("This task is not open to you.", true);
  if (verb === "submit" && !answer.value.trim()) return notify("The answer is empty.", true);
  if (verb === "submit" && task.state === "submitted" && answer.value === task.text) notify("Nothing has changed.");
  else {
    const seconds = Math.min(86400, Math.round(task.spent / 100) / 10);
    const bodies = { submit: { text: answer.value, seconds, guidelines: guide.version }, skip: { reason: note }, flag: { comment: note } };
    desk.answer(task, verb, bodies[verb]);
    guide.understood();
    notify({ submit: "Submitted.", skip: "Skipped.", flag: "Flagged for an admin." }[verb]);
  }
  const place = desk.tasks.indexOf(task);
  const next = desk.tasks.slice(place).find((each) => desk.isOpen(each)) ?? desk.tasks.find((each) => desk.isOpen(each));
  show(next ?? null);
  fresh = task;
  if (!next) fill();
}

function ask(verb) {
  if (!task || !desk.isWritable(task)) return;
  const dialog = find("note-dialog");
  dialog.dataset.verb = verb;
  find("note-title").textContent = verb === "skip" ? "Skip this task" : "Flag this task";
  find("note-label").textContent = verb === "skip" ? "Reason" : "Comment for an admin";
  find("note").value = "";
  dialog.showModal();
  find("note").focus();
}

find("note-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const note = find("note").value.trim();
  if (!note) return;
  find("note-dialog").close();
  act(find("note-dialog").dataset.verb, note);
});

// Takes back the answer to the task on the screen; right after an answer, before anything else, that answer.
function undo() {
  const last = fresh === task && desk.last && desk.isAnswered(desk.last) ? desk.last : task;
  if (!last || !desk.isAnswered(last)) return notify("This task has no answer to take back. Previous shows your last one.", true);
  if (last.closed) return notify("The run has trained on this answer: an admin can correct it.", true);
  desk.undo(last);
  notify("Taken back.");
  return show(last);
}

// Shows the task before or behind; one that is not here is fetched, and shown if nobody went elsewhere meanwhile.
async function go(step) {
  const from = task;
  const beside = () => desk.tasks[from ? desk.tasks.indexOf(from) + step : step < 0 ? desk.tasks.length - 1 : desk.tasks.length];
  try {
    while (!beside() && step > 0 && desk.filling) await desk.filling; // what is being leased is not among the open tasks
    if (!beside() && !(await (step < 0 ? desk.goBack() : desk.lookAhead()))) {
      notify(step < 0 ? "This is your first task." : "There is no further open task.");
    }
  } catch (error) {
    desk.miss(error);
    if (error.status) notify(error.message, true);
  }
  if (task === from && beside()) show(beside());
}

async function take() {
  const from = task;
  if (!from || from.state !== "open") return;
  try {
    const taken = await desk.take(from);
    if (task === from) show(taken);
  } catch (error) {
    desk.miss(error);
    notify(error.message, true);
  }
}

// Renews what is in hand and fetches tasks to come; the first of them is shown where nothing else is.
async function fill() {
  renewed = Date.now();
  try {
    await desk.fill(task && desk.isOpen(task) ? task : null);
  } catch (error) {
    desk.miss(error);
    if (error.status && error.status !== 401) notify(error.message, true);
  }
  if (task) return draw();
  show(desk.tasks.find((each) => desk.isOpen(each)) ?? null);
  fresh = task;
  return undefined;
}

function show(next) {
  task = next;
  fresh = null;
  if (!task) return draw();
  task.opened = true;
  shown = null;
  fillAnswer();
  find("why").open = false;
  draw(); // what is hidden takes no focus
  if (desk.isWritable(task)) answer.focus();
  else find("task-title").focus();
  if (desk.isOpen(task)) fill();
  return undefined;
}

function fillAnswer() {
  if (shown === task.id && document.activeElement === answer && answer.value && !task.answer) return;
  if (shown !== task.id) display.show(task);
  shown = task.id;
  answer.value = task.answer;
  if (!find("preview").hidden) drawPreview();
  explain();
}

function explain() {
  const holder = find("why-text");
  find("why").hidden = !task.why;
  holder.replaceChildren();
  if (!task.why) return;
  const meaning = document.querySelector(`template[data-strategy="${window.CSS.escape(task.why.strategy)}"]`);
  if (meaning) holder.append(meaning.content.cloneNode(true));
  const title = (part) => meaning?.content.querySelector(`[data-part="${window.CSS.escape(part)}"]`)?.textContent ?? part.replaceAll("_", " ");
  const parts = Object.entries(task.why.parts ?? {}).map(([name, value]) => `${title(name)} ${value?.toPrecision(3)}`);
  const line = document.createElement("p");
  line.textContent = `Picked as number ${task.why.rank} by ${task.why.strategy}; ${["score " + task.why.score?.toPrecision(3), ...parts].join(", ")}.`;
  holder.append(line);
}

const STANDINGS = { open: "looked at, not yours", submitted: "submitted", skipped: "skipped", flagged: "flagged" };

function draw() {
  const open = Boolean(task) && desk.isOpen(task);
  const writable = Boolean(task) && desk.isWritable(task);
  find("work").hidden = !task;
  find("empty").hidden = Boolean(task) && (writable || task.state === "open" || desk.tasks.some((each) => desk.isOpen(each)));
  if (task) {
    const standing = STANDINGS[task.state] ?? "";
    find("task-state").textContent = task.closed ? `${standing} closed`.trim() : open ? "" : writable ? `${standing}; you can change it` : standing;
    answer.readOnly = !writable;
    const suggestion = task.suggestion;
    const source = suggestion && `Draft by ${suggestion.source}${suggestion.round ? `, trained in round ${suggestion.round}` : ""}`;
    find("source").textContent = source ?? (task.blind ? "A draft of the model is shown once you have begun." : "No draft.");
    button("compare").disabled = !suggestion;
    for (const name of ["submit", "skip", "flag"]) button(name).disabled = !writable;
    button("save").disabled = !open;
    button("undo").disabled = task.closed || !(desk.isAnswered(task) || (fresh === task && desk.last));
    button("take").hidden = task.state !== "open";
    button("submit").hidden = task.state === "open";
    const told = {
      "sent-back": open && task.note ? `Sent back${task.sent_back_by ? ` by ${task.sent_back_by}` : ""}: ${task.note}` : "",
      elsewhere: tabs.shows(task.id) ? "This task is open in another tab too. What is typed there shows here." : "",
    };
    for (const [id, text] of Object.entries(told)) Object.assign(find(id), { textContent: text, hidden: !text });
    find("other").hidden = !writable || desk.other(task) === null;
    answer.style.height = "auto";
    answer.style.height = `${answer.scrollHeight + 2}px`;
    if (!find("difference").hidden) {
      showDifference(find("difference"), suggestion?.text ?? "", answer.value);
      find("difference").scrollIntoView({ block: "nearest" }); // the answer above it grows
    }
  }
  const waiting = desk.outbox.entries.length;
  const kept = writable && !desk.isSaved(task);
  find("saved").textContent = [
    waiting ? `${waiting} ${waiting === 1 ? "answer waits" : "answers wait"} to be sent.` : "",
    !desk.reached
      ? "The server cannot be reached; everything is kept in this browser."
      : kept
        ? open ? "Saving …" : "Not submitted yet."
        : open ? "Saved." : "",
  ].join(" ").trim();
  find("signed-out").hidden = !desk.signedOut;
  tabs.announce();
  find("saved").classList.toggle("mistake", !desk.reached || waiting > 0);
  drawProgress();
}

function drawProgress() {
  const progress = desk.progress;
  if (!progress) return;
  const { own } = progress;
  find("standing").textContent = describeProgress(progress);
  find("bar").max = Math.max(1, own.done + own.open);
  find("bar").value = own.done;
}

function tick() {
  const atWork = !document.hidden && Date.now() - active < IDLE;
  if (task && desk.isOpen(task)) {
    if (atWork) task.spent += 1000;
    const left = Math.max(0, Math.round((task.until - Date.now()) / 1000));
    const clock = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    find("clock").textContent = left ? `Yours for ${clock}` : "No longer yours alone";
    find("clock").classList.toggle("mistake", left < 60);
    const reads = !document.hidden && Date.now() - active < READS;
    if (reads && desk.reached && Date.now() - renewed > RENEW) fill();
  } else {
    find("clock").textContent = "";
  }
  button("renew").hidden = !find("clock").textContent;
}

let wait = LOOK_AGAIN[0];
async function lookAgain() {
  const idle = !desk.tasks.some((each) => desk.isOpen(each));
  if ((idle && !document.hidden) || !desk.reached) await fill();
  wait = idle ? Math.min(wait * 1.5, LOOK_AGAIN[1]) : LOOK_AGAIN[0];
  window.setTimeout(lookAgain, wait);
}

window.setInterval(tick, 1000);
window.setTimeout(lookAgain, wait);
window.addEventListener("pagehide", () => {
  desk.leave((id) => tabs.has(id));
  tabs.leave();
});
window.addEventListener("pageshow", (event) => event.persisted && fill());

try {
  await desk.open();
} catch (error) {
  desk.miss(error);
  if (error.status !== 401) notify(error.message, true);
}
if (!task) show(desk.tasks.find((each) => desk.isOpen(each)) ?? null);
