// What was typed into the form of a new run, kept by the browser's tab: Back, Forward and a reload lose nothing.

const KEY = `atgen-new${window.location.search}`;

// Keeps the values of `fields`, by their keys, and what else belongs to them.
export function keep(fields, extra) {
  const values = Object.fromEntries(fields.map((field) => [field.dataset.key, field.value]));
  try {
    window.sessionStorage.setItem(KEY, JSON.stringify({ values, ...extra }));
  } catch {
    // The storage is full or turned off: the form works without it.
  }
}

// Fills in what was kept and gives the rest of it, or null where nothing was or nothing differs.
export function restore(fields) {
  let kept;
  try {
    kept = JSON.parse(window.sessionStorage.getItem(KEY) ?? "null");
  } catch {
    return null;
  }
  if (!kept) return null;
  let changed = false;
  for (const field of fields) {
    const value = kept.values[field.dataset.key];
    if (value === undefined || value === field.value) continue;
    field.value = value;
    changed ||= field.value === value;
  }
  return changed ? kept : null;
}

export function forget() {
  window.sessionStorage.removeItem(KEY);
}
