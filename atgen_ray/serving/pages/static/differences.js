// Differences between several answers: words that not all others have are marked in each.

import { compare } from "./difference.js";

// Marks in each of the elements `holders` the words that at least one other lacks; or unmarks them all.
export function markDifferences(holders, marked) {
  const texts = holders.map((holder) => holder.textContent);
  holders.forEach((holder, place) => {
    if (!marked) {
      holder.textContent = texts[place];
      return;
    }
    const lacking = new Uint8Array(texts[place].length);
    texts.forEach((other, index) => {
      if (index !== place) note(lacking, compare(other, texts[place]));
    });
    holder.replaceChildren(...split(texts[place], lacking));
  });
}

// Notes which characters of the second text are not in the first.
function note(lacking, parts) {
  let at = 0;
  for (const [kind, text] of parts) {
    if (kind === "del") continue;
    if (kind === "ins") lacking.fill(1, at, at + text.length);
    at += text.length;
  }
}

function split(text, lacking) {
  const nodes = [];
  for (let start = 0, end = 0; start < text.length; start = end) {
    while (end < text.length && lacking[end] === lacking[start]) end += 1;
    const piece = text.slice(start, end);
    const plain = !lacking[start] || !piece.trim();
    nodes.push(plain ? document.createTextNode(piece) : Object.assign(document.createElement("mark"), { textContent: piece }));
  }
  return nodes;
}
