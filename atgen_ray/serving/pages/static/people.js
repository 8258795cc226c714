// Invitations, groups and revoking, on the page of people.

import { requestJson } from "./http.js";
import { notify } from "./shell.js";

const form = document.getElementById("invite");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { role, runs, groups, days, uses } = form.elements;
  const chosen = [...runs.selectedOptions].map((option) => option.value);
  await invite({
    role: role.value,
    runs: role.value === "admin" || !chosen.length ? null : chosen,
    groups: split(groups.value),
    days: Number(days.value),
    uses: Number(uses.value),
  });
});

document.querySelector(".people").addEventListener("change", async (event) => {
  const box = event.target.closest("input.groups");
  if (box) await send("PUT", "/api/v1/people/groups", { person: personOf(box), groups: split(box.value) });
});

document.querySelector(".people").addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-act]");
  if (!button) return;
  const person = personOf(button);
  if (button.dataset.act === "link") {
    await invite(grantOf(button.closest("tr"), person));
    return;
  }
  const ask = `Sign ${person} out for good? The answers stay, and tasks in hand go to others.`;
  if (!window.confirm(ask)) return;
  if (await send("POST", "/api/v1/people/revoke", { person })) window.location.reload();
});

// What a new link gives to somebody who is there: the same as before.
function grantOf(row, person) {
  const { role, runs } = row.dataset;
  return { person, role, runs: JSON.parse(runs), groups: split(row.querySelector(".groups").value), days: 7 };
}

async function invite(body) {
  const made = await send("POST", "/api/v1/invites", body);
  if (!made) return;
  const link = document.getElementById("link");
  document.getElementById("made").classList.remove("hidden");
  link.value = made.link;
  link.focus();
  link.select();
}

async function send(method, path, body) {
  try {
    const answer = await requestJson(method, path, body);
    notify(answer.message);
    return answer;
  } catch (error) {
    notify(error.message, true);
    return null;
  }
}

const personOf = (element) => element.closest("tr").dataset.person;
const split = (text) => text.split(",").map((part) => part.trim()).filter(Boolean);
