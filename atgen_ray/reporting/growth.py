"""How the pool of a run grew, in words: what was offered and when, and what became of it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from atgen_ray.store.additions import describe_additions, describe_growths, list_growths
from atgen_ray.store.events import Event

AUDIT_DRAW = "audit-draw"  # the step that draws the audit


def tell_growth(events: Sequence[Event]) -> list[str]:
    """Return the lines of `describe_added` by the events of a run."""
    return describe_added(_date(describe_additions(events)), _date(describe_growths(events)))


def count_unaudited(events: Sequence[Event]) -> int:
    """Return how many examples came into the pool after the audit was drawn from it."""
    drawn = [event.sequence for event in events if event.step == AUDIT_DRAW]
    if not drawn:
        return 0
    later = [event for event in list_growths(events) if event.sequence > drawn[0]]
    return sum(int(event.payload["added"]) for event in later)


def describe_added(
    added: Sequence[Mapping[str, Any]], growths: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a line for each time that rows were added to a run, and for each time that its pool
    took them, by the rows of `describe_additions` and `describe_growths` with times as text.
    """
    lines = []
    for row in added:
        rest = describe_rest(row, row["reasons"])
        wait = "" if row["round"] is not None else "; they wait for the next round"
        lines.append(
            f"{row['time']} {row['by']} added {row['added']:,} of {row['offered']:,} rows of "
            f"{row['source']}{f' ({rest})' if rest else ''}{wait}"
        )
    for row in growths:
        parts = [f"{row['near_duplicates']:,} of them near-duplicates"] * bool(
            row["near_duplicates"]
        )
        parts += [f"{row['known']:,} others known by then"] * bool(row["known"])
        before, now = row["before"], row["before"] + row["added"]
        more = f" ({', '.join(parts)})" if parts else ""
        lines.append(
            f"{row['time']} the pool grew from {before:,} to {now:,} examples before round "
            f"{row['round']}{more}"
        )
    return lines


def describe_rest(counts: Mapping[str, Any], reasons: Mapping[str, int]) -> str:
    """Return in words which rows were not added, and why; empty where all were."""
    words = {
        "known": "known already",
        "test": "in the test set",
        "repeated": "repeated in the source",
        "unusable": "unusable",
    }
    said = [f"{counts[name]:,} {word}" for name, word in words.items() if counts[name]]
    first = next(iter(reasons), "")
    return ", ".join(said) + (f" (as: {first})" if first and counts["unusable"] else "")


def _date(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        row | {"time": datetime.fromtimestamp(row["time"], UTC).isoformat(timespec="seconds")}
        for row in rows
    ]
