// Requests to our own server: what a page writes carries its CSRF token, and what goes wrong is one line of text.

let csrf = readToken(document);

function readToken(page) {
  return page.querySelector('meta[name="csrf"]')?.content ?? "";
}

// Takes over the CSRF token of a page that was fetched after a new sign-in.
export function adoptPage(page) {
  csrf = readToken(page);
}

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: the server was not reached
  }
}

// Sends a request and gives the answer. `body` becomes JSON, but for a File or Blob. Throws a Refusal.
export async function request(method, path, body, options = {}) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf, ...options.headers };
  if (body !== undefined && !(body instanceof Blob)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options, method, headers, body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server cannot be reached.");
  }
  if (!answer.ok) throw new Refusal(answer.status, await explain(answer));
  return answer;
}

// As `request`, for an answer in JSON.
export async function requestJson(method, path, body, options) {
  return (await request(method, path, body, options)).json();
}

async function explain(answer) {
  if (answer.status === 401) return "You are not signed in any more.";
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}
