// Uploads with their progress, which `fetch` does not tell.

import { Refusal } from "./http.js";

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";

// Sends `file` to `path` and gives the answer; `progress` is called with the share that was sent.
export function upload(path, file, progress) {
  return new Promise((done, fail) => {
    const sender = new XMLHttpRequest();
    sender.open("PUT", path);
    sender.responseType = "json";
    sender.setRequestHeader("Accept", "application/json");
    sender.setRequestHeader("Content-Type", "application/octet-stream");
    sender.setRequestHeader("X-CSRF-Token", csrf);
    sender.upload.addEventListener("progress", (event) => event.lengthComputable && progress(event.loaded / event.total));
    sender.addEventListener("error", () => fail(new Refusal(0, "The server cannot be reached.")));
    sender.addEventListener("load", () => {
      if (sender.status >= 200 && sender.status < 300) done(sender.response);
      else if (sender.status === 401) fail(new Refusal(401, "You are not signed in any more."));
      else fail(new Refusal(sender.status, sender.response?.error?.message ?? `The server answered ${sender.status}.`));
    });
    sender.send(file);
  });
}
