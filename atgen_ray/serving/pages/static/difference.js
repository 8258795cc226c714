// The difference between two texts by words: a longest common subsequence, shown as <del> and <ins>.

const CELLS = 4_000_000; // beyond which texts are shown as replaced whole

export function showDifference(holder, before, after) {
  holder.replaceChildren();
  for (const [kind, text] of compare(before, after)) {
    const node = kind === "same" ? document.createTextNode(text) : document.createElement(kind);
    if (kind !== "same") node.textContent = text;
    holder.append(node);
  }
}

export function compare(before, after) {
  const [one, other] = [before, after].map((text) => text.match(/\s+|[^\s]+/g) ?? []);
  let start = 0;
  while (start < one.length && one[start] === other[start]) start += 1;
  let end = 0;
  while (end < Math.min(one.length, other.length) - start && one.at(-1 - end) === other.at(-1 - end)) end += 1;
  const middle = [one.slice(start, one.length - end), other.slice(start, other.length - end)];
  const parts = [];
  const add = (kind, text) => {
    if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += text;
    else if (text) parts.push([kind, text]);
  };
  add("same", one.slice(0, start).join(""));
  for (const [kind, text] of join(align(...middle))) add(kind, text);
  add("same", end ? one.slice(-end).join("") : "");
  return parts;
}

// Words that were replaced one after the other as one piece: white space alone does not part them.
function join(parts) {
  const joined = [];
  let [gone, come, space] = ["", "", ""];
  const flush = () => {
    joined.push(["del", gone], ["ins", come], ["same", space]);
    [gone, come, space] = ["", "", ""];
  };
  for (const [kind, text] of parts) {
    if (kind === "same" && !text.trim() && (gone || come)) {
      space += text;
      continue;
    }
    if (kind === "same") {
      flush();
      joined.push(["same", text]);
    } else {
      [gone, come, space] = [gone + space, come + space, ""];
      if (kind === "del") gone += text;
      else come += text;
    }
  }
  flush();
  return joined.filter(([, text]) => text);
}

function align(one, other) {
  if (one.length * other.length > CELLS) return [["del", one.join("")], ["ins", other.join("")]];
  const width = other.length + 1;
  const longest = new Uint32Array((one.length + 1) * width);
  for (let i = one.length - 1; i >= 0; i -= 1) {
    for (let j = other.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] =
        one[i] === other[j]
          ? longest[(i + 1) * width + j + 1] + 1
          : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const parts = [];
  let [i, j] = [0, 0];
  while (i < one.length || j < other.length) {
    if (i < one.length && j < other.length && one[i] === other[j]) {
      parts.push(["same", one[i]]);
      i += 1;
      j += 1;
    } else if (j === other.length || (i < one.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      parts.push(["del", one[i]]);
      i += 1;
    } else {
      parts.push(["ins", other[j]]);
      j += 1;
    }
  }
  return parts;
}
