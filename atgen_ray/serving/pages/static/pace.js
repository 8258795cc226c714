// How far a person has come, at what pace, and for how long it will go on; and how far the team has come.

export function describeProgress({ own, tasks, done, total }) {
  const parts = [`You: ${own.submitted} submitted, ${own.skipped} skipped, ${own.flagged} flagged`];
  const kept = own.assigned ? `, ${own.assigned} of them kept for you` : "";
  parts.push(`${own.open} open to you${kept}`);
  if (own.seconds !== null) parts.push(`${own.seconds.toFixed(0)} s an answer`);
  if (own.an_hour !== null) parts.push(`${own.an_hour.toFixed(0)} an hour`);
  if (own.left_seconds) parts.push(`about ${tellTime(own.left_seconds)} left at your pace`);
  const dispute = tasks.disputed ? ` ${tasks.disputed} wait for an admin.` : "";
  return `${parts.join("; ")}. Team: ${done} of ${total} done.${dispute}`;
}

// Seconds in the unit that fits: 40 s, 12 min, 3 h 20 min.
function tellTime(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
