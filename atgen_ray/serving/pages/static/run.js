// The page of a run follows it by server-sent events: the step under way, and every part after the steps that change it.

import { remember } from "./folds.js";
import { request } from "./http.js";
import { load, watch } from "./parts.js";
import { follow as followPlots } from "./plots.js";

const state = document.getElementById("state");
const parts = [...document.querySelectorAll(".part")];
const name = state.dataset.run;
const path = `/runs/${name}/parts/state`;
let stream = null;
let last = state.dataset.after; // the event that was heard last
let activity = null; // the step under way
let counted = 0; // when the numbers of the page were last asked for, in milliseconds
const COUNT_EVERY = 4000; // milliseconds, as the list of runs
const LOOK_EVERY = 5000; // at a run whose controller is gone, which may go on by itself

remember("run-parts");
followPlots(document.getElementById("main"));
// After the first paint: drawing the parts keeps the server busy.
window.requestAnimationFrame(() => window.setTimeout(() => watch(parts)));
if (state.dataset.over === "no") follow();
else lookAgain();

document.addEventListener("posted", async (event) => {
  const resumed = event.target.dataset.post.endsWith("/resume");
  await load(state, path);
  if (resumed) await waitUntilGoing();
  if (!stream) follow();
});

// A run that was resumed takes a moment until it goes on.
async function waitUntilGoing() {
  for (let look = 0; look < 120 && !state.querySelector(".status.running"); look++) {
    await new Promise((done) => window.setTimeout(done, 500));
    await load(state, path);
  }
}

function follow() {
  stream = new EventSource(`/api/v1/runs/${name}/events?after=${last}`);
  stream.addEventListener("step", (event) => {
    last = event.lastEventId;
    changed(JSON.parse(event.data).step);
  });
  stream.addEventListener("activity", (event) => {
    const done = activity?.done;
    activity = JSON.parse(event.data);
    showActivity();
    // Labels and dollars grow in the middle of a step too.
    if (activity.step !== "annotation" || activity.done === done || Date.now() - counted < COUNT_EVERY) return;
    counted = Date.now();
    load(state, path).then(showActivity);
  });
  stream.addEventListener("end", () => {
    stream.close();
    stream = activity = null;
    changed(null).then(lookAgain);
  });
  stream.addEventListener("error", () => checkSession());
}

// A run that was interrupted goes on by itself where its service is told so.
async function lookAgain() {
  while (state.querySelector(".status.interrupted") && !stream) {
    await new Promise((done) => window.setTimeout(done, LOOK_EVERY));
    if (document.hidden) continue;
    await load(state, path);
    if (state.querySelector(".status.running") && !stream) follow();
  }
}

// After `step`, or after the end: what is shown of it is asked for again, what was not seen yet is left.
async function changed(step) {
  await load(state, path);
  for (const part of parts) {
    const steps = part.dataset.afterSteps.split(" ");
    if (part.dataset.shown && (step === null || steps.includes(step))) load(part, part.dataset.shown);
  }
}

window.setInterval(showActivity, 1000);

function showActivity() {
  const line = document.getElementById("activity");
  const bar = document.getElementById("activity-bar");
  if (!line || !activity) return;
  for (const item of state.querySelectorAll("[data-step]")) {
    item.classList.toggle("now", item.dataset.step === activity.step);
  }
  const since = Math.max(0, Math.round(Date.now() / 1000 - activity.started));
  const count = activity.total ? `, ${activity.done} of ${activity.total}` : "";
  const waiting = activity.waiting ? `: ${activity.waiting}` : "";
  line.textContent = `${activity.step}${count}, for ${since} s${waiting}`;
  bar.hidden = false;
  bar.removeAttribute("value");
  if (activity.total) {
    bar.max = activity.total;
    bar.value = activity.done;
  }
}

// EventSource tells no status: a session that has ended is found by asking.
async function checkSession() {
  try {
    await request("GET", `/api/v1/runs/${name}/metrics`);
  } catch (error) {
    if (error.status === 401) window.location.reload();
  }
}
