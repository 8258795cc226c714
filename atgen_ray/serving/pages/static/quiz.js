// The quiz before other tasks: after each of its answers, whether it was right, the right answers, and why.

import { requestJson } from "./http.js";

const LOOK_AGAIN = 1500; // milliseconds; an answer is sent by another module, perhaps much later
const find = (id) => document.getElementById(id);
const root = find("quiz");
let shown = null;

async function look() {
  if (document.hidden) return;
  let quiz;
  try {
    quiz = await requestJson("GET", `/api/v1/runs/${root.dataset.run}/tasks/quiz`);
  } catch {
    return; // the page says that the server cannot be reached
  }
  if (quiz.passed !== null) window.clearInterval(timer);
  // Who has passed before sees no quiz.
  if (quiz.passed && shown === null) return;
  if (shown !== quiz.answered) draw(quiz);
  shown = quiz.answered;
}

function draw(quiz) {
  root.hidden = false;
  find("quiz-state").textContent = describe(quiz);
  find("quiz-close").hidden = !quiz.passed;
  const last = quiz.answers.at(-1);
  find("quiz-last").hidden = !last;
  if (!last) return;
  find("quiz-verdict").textContent = last.agrees ? "The last answer is right." : "The last answer is not right.";
  find("quiz-input").textContent = last.input;
  find("quiz-given").textContent = last.text ?? "No answer";
  find("quiz-right").replaceChildren(
    ...last.texts.map((text) => Object.assign(document.createElement("li"), { textContent: text, dir: "auto" })),
  );
  find("quiz-why").textContent = last.explanation ?? "";
  for (const id of ["quiz-why", "quiz-why-title"]) find(id).hidden = !last.explanation;
}

function describe({ total, answered, right, passed }) {
  if (passed) return `${right} of ${total} right. The tasks follow.`;
  if (passed === false) return `${right} of ${total} right, which is too few for this run. Please ask your lead.`;
  const rule = "Each answer is followed by the right one.";
  const questions = total === 1 ? "One question comes" : `${total} questions come`;
  return answered ? `${answered} of ${total} answered, ${right} right.` : `${questions} before the tasks. ${rule}`;
}

find("quiz-close").addEventListener("click", () => (root.hidden = true));
const timer = window.setInterval(look, LOOK_AGAIN);
look();
