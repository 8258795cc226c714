// The page on which people label: shows one task of the desk, and does what keys and buttons say.

import { Desk } from "./desk.js";
import { showDifference } from "./difference.js";
import { Display, preview } from "./display.js";
import { Guide, openRemarks } from "./guide.js";
import { notify } from "./shell.js";
import { Store } from "./store.js";

const find = (id) => document.getElementById(id);
const root = find("annotate");
const { run, person } = root.dataset;
const answer = find("answer");
const IDLE = 60000; // milliseconds after which nobody is at work
const LOOK_AGAIN = 4000;
let index = -1;
let shown = null; // id of the task that the answer box belongs to
let active = Date.now();

const display = new Display(run, find("input"), find("context"));
const drawPreview = preview(run, answer, find("preview"));
const store = new Store(run, person);
const guide = new Guide(run, store, find("guidelines"), {
  changed: (version) => {
    notify(`The guidelines have changed: version ${version}.`);
    drawToggle("guidelines", "guidelines");
  },
});
drawToggle("guidelines", "guidelines");
const desk = new Desk(run, store, {
  changed: (task) => {
    if (task && desk.isOpen(task)) display.prepare(task.id);
    if (task && task === current() && task.answer !== answer.value) fillAnswer(task);
    draw();
  },
  told: notify,
});
const current = () => desk.tasks[index];

const ACTIONS = {
  submit: () => act("submit"),
  save: () => current() && desk.save(current()).then(() => desk.isSaved(current()) && notify("Draft saved.")),
  skip: () => ask("skip"),
  flag: () => ask("flag"),
  next: () => go(index + 1),
  previous: () => go(index - 1),
  undo,
  compare: () => toggle("difference", "compare"),
  preview: () => {
    toggle("preview", "preview");
    if (!find("preview").hidden) drawPreview();
  },
  guidelines: () => {
    toggle("guidelines", "guidelines");
    if (find("guidelines").hidden) guide.understood();
  },
  remark: openRemarks(run, find("remark-dialog"), current, notify),
  why: () => (find("why").open = !find("why").open),
  help: () => find("help").showModal(),
  renew: () => current() && desk.save(current()),
  close: () => document.querySelector("dialog[open]").close(),
};
const KEYS = { KeyN: "next", KeyP: "previous", KeyK: "skip", KeyX: "flag", KeyZ: "undo", KeyC: "compare" };
const MORE_KEYS = { KeyG: "guidelines", KeyR: "remark", KeyW: "why", KeyH: "help" };

document.addEventListener("keydown", (event) => {
  active = Date.now();
  const dialog = document.querySelector("dialog[open]");
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key === "Enter") {
    event.preventDefault();
    if (dialog) dialog.querySelector("button.primary")?.click();
    else act("submit");
  } else if (!dialog && command && !event.altKey && event.code === "KeyS") {
    event.preventDefault();
    ACTIONS.save();
  } else if (!dialog && event.altKey && !command && { ...KEYS, ...MORE_KEYS }[event.code]) {
    event.preventDefault();
    ACTIONS[{ ...KEYS, ...MORE_KEYS }[event.code]]();
  } else if (!dialog && event.key === "?" && !/^(TEXTAREA|INPUT)$/.test(event.target.tagName)) {
    event.preventDefault();
    ACTIONS.help();
  }
});
document.addEventListener("pointerdown", () => (active = Date.now()));
document.addEventListener("click", (event) => ACTIONS[event.target.closest("button[data-act]")?.dataset.act]?.());
answer.addEventListener("input", () => {
  if (current() && desk.isOpen(current())) desk.type(current(), answer.value);
});

function toggle(id, action) {
  find(id).hidden = !find(id).hidden;
  drawToggle(id, action);
  draw();
}

function drawToggle(id, action) {
  const button = document.querySelector(`[data-act="${action}"]`);
  button.setAttribute("aria-expanded", String(!find(id).hidden));
}

function act(verb, note) {
  const task = current();
  if (!task || !desk.isOpen(task)) return notify("This task is not open to you.", true);
  if (verb === "submit" && !answer.value.trim()) return notify("The answer is empty.", true);
  const seconds = Math.min(86400, Math.round(task.spent / 100) / 10);
  const bodies = { submit: { text: answer.value, seconds, guidelines: guide.version }, skip: { reason: note }, flag: { comment: note } };
  desk.answer(task, verb, bodies[verb]);
  guide.understood();
  notify({ submit: "Submitted.", skip: "Skipped.", flag: "Flagged for an admin." }[verb]);
  return go(desk.tasks.findIndex((each, place) => place > index && desk.isOpen(each)), true);
}

function ask(verb) {
  if (!current() || !desk.isOpen(current())) return;
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

function undo() {
  const task = desk.undo();
  if (!task) return notify("There is no answer to take back.", true);
  notify("Taken back.");
  return go(desk.tasks.indexOf(task));
}

// Shows the task at `place`; one that is not there is fetched. After an answer with nothing open here `place` is -1.
async function go(place, found = false) {
  if (place < 0 && !found) return;
  if (place >= 0 && place < desk.tasks.length) return show(place);
  draw();
  await fill(desk.tasks.length);
}

// Fetches tasks to come, and shows the one at `wanted` if it has come and nobody went elsewhere meanwhile.
async function fill(wanted = null) {
  const before = desk.tasks.length;
  const from = index;
  try {
    await desk.fill(wanted ?? Math.max(0, index));
    desk.reached = true;
  } catch (error) {
    desk.reached = error.status !== 0;
    if (error.status !== 0) notify(error.message, true);
  }
  const idle = !current() || !desk.isOpen(current());
  const place = wanted ?? (idle ? before : null);
  if (place !== null && place < desk.tasks.length && index === from) show(place);
  else draw();
}

function show(place) {
  index = place;
  const task = current();
  fillAnswer(task);
  find("why").open = false;
  draw(); // what is hidden takes no focus
  if (desk.isOpen(task)) answer.focus();
  else find("task-title").focus();
  if (desk.isOpen(task)) fill();
}

function fillAnswer(task) {
  if (shown === task.id && document.activeElement === answer && answer.value && !task.answer) return;
  shown = task.id;
  answer.value = task.answer;
  display.show(task);
  if (!find("preview").hidden) drawPreview();
  explain(task);
}

function explain(task) {
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

function draw() {
  const task = current();
  const open = Boolean(task) && desk.isOpen(task);
  const idle = !task || (!open && !desk.tasks.some((each) => desk.isOpen(each)));
  find("work").hidden = !task;
  find("empty").hidden = !idle;
  if (task) {
    find("task-title").textContent = `Task ${index + 1}`;
    find("task-state").textContent = open ? "" : task.closed ? "closed" : task.state;
    find("sent-back").hidden = !task.sent_back_by;
    find("sent-back").textContent = `Sent back by ${task.sent_back_by}: ${task.note}`;
    answer.readOnly = !open;
    const suggestion = task.suggestion;
    const source = suggestion && `Draft by ${suggestion.source}${suggestion.round ? `, trained in round ${suggestion.round}` : ""}`;
    find("source").textContent = source ?? (task.blind ? "A draft of the model is shown once you have begun." : "No draft.");
    document.querySelector('[data-act="compare"]').disabled = !suggestion;
    if (!find("difference").hidden) showDifference(find("difference"), suggestion?.text ?? "", answer.value);
    for (const name of ["submit", "save", "skip", "flag"]) document.querySelector(`[data-act="${name}"]`).disabled = !open;
    answer.style.height = "auto";
    answer.style.height = `${answer.scrollHeight + 2}px`;
  }
  document.querySelector('[data-act="previous"]').disabled = index <= 0;
  const waiting = desk.outbox.entries.length;
  const kept = task && open && !desk.isSaved(task);
  find("saved").textContent = [
    waiting ? `${waiting} ${waiting === 1 ? "answer waits" : "answers wait"} to be sent.` : "",
    desk.reached ? (kept ? "Saving …" : open ? "Saved." : "") : "The server cannot be reached; everything is kept in this browser.",
  ].join(" ");
  find("saved").classList.toggle("mistake", !desk.reached || waiting > 0);
  drawProgress();
}

function drawProgress() {
  const progress = desk.progress;
  if (!progress) return;
  const { own } = progress;
  const seconds = own.seconds === null ? "" : `, ${own.seconds.toFixed(0)} s an answer`;
  const dispute = progress.tasks.disputed ? ` ${progress.tasks.disputed} wait for an admin.` : "";
  find("standing").textContent =
    `Team: ${progress.done} of ${progress.total} done.${dispute} You: ${own.submitted} submitted, ${own.skipped} skipped, ${own.flagged} flagged${seconds}.`;
  find("bar").max = Math.max(1, progress.total);
  find("bar").value = progress.done;
}

function tick() {
  const task = current();
  if (task && desk.isOpen(task)) {
    if (!document.hidden && Date.now() - active < IDLE) task.spent += 1000;
    const left = Math.max(0, Math.round((task.until - Date.now()) / 1000));
    const clock = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    find("clock").textContent = left ? `Yours for ${clock}` : "No longer yours alone";
    find("clock").classList.toggle("mistake", left < 60);
    if (left < 120 && Date.now() - active < IDLE && desk.reached && left % 20 === 0) desk.save(task);
  } else {
    find("clock").textContent = "";
  }
}

window.setInterval(tick, 1000);
window.setInterval(() => {
  if (!desk.tasks.some((task) => desk.isOpen(task)) || !desk.reached) fill();
}, LOOK_AGAIN);

try {
  await desk.open();
} catch (error) {
  desk.reached = error.status !== 0;
  notify(error.message, true);
}
const first = desk.tasks.findIndex((task) => desk.isOpen(task));
if (first >= 0) show(first);
else go(desk.tasks.length, true);
