"""Which faults a history has: how many, of which kinds, and at which of its edges they come."""

import random
from collections import Counter
from dataclasses import dataclass, field

# Faults of any edge, with their weights.
ANYWHERE = {"kill": 4.0, "pause": 2.0, "clock": 0.7}
# How much likelier a fault is at the edges that are few and where much can go wrong.
WEIGHTS = {"request": 8.0, "answered": 8.0, "database commit": 3.0, "rename": 2.0, "worker": 4.0}


@dataclass
class Plan:
    """The faults of one history. They stop once `left` is 0: from then on a run has to end."""

    chance: random.Random
    left: int
    rate: float  # of edges at which something happens
    weights: dict[str, float] = field(default_factory=dict)
    focus: str | None = None  # words of the edges where most faults come
    done: Counter[str] = field(default_factory=Counter)

    @classmethod
    def draw_up(cls, seed: str, focus: str | None = None) -> "Plan":
        """Draw how many faults a history has, and how close they come; `focus` has them come at
        edges with these words.
        """
        chance = random.Random(f"{seed}/faults")
        left = chance.choice([1, 1, 2, 3, 4, 6, 9])
        # Some histories have faults of one kind above all others.
        favourite = chance.choice([None, "kill", "pause", "edge"])
        weights = {
            name: weight * (5 if name == favourite else 1) for name, weight in ANYWHERE.items()
        }
        weights["edge"] = 4.0 * (5 if favourite == "edge" else 1)
        rate = chance.choice([0.001, 0.003, 0.006, 0.015, 0.05])
        drawn = chance.choice(
            [None, None, "request", "answered", "database commit", "rename", "worker"]
        )
        return cls(chance, left, rate, weights, focus or drawn)

    @classmethod
    def without(cls) -> "Plan":
        """Return the plan of a history in which nothing goes wrong."""
        return cls(random.Random(0), 0, 0.0)

    def draw(self, edge: str, detail: str, can: tuple[str, ...], mortal: bool) -> str | None:
        """Return the fault that comes at an edge, or None."""
        weight = next((each for word, each in WEIGHTS.items() if edge.startswith(word)), 1.0)
        if self.focus is not None:
            weight *= 10.0 if self.focus in f"{edge} {detail}" else 0.2
        if not self.left or not (mortal or can) or self.chance.random() >= self.rate * weight:
            return None
        kinds = [*(ANYWHERE if mortal else ()), *(["edge"] if can else [])]
        kind = self.chance.choices(kinds, [self.weights[each] for each in kinds])[0]
        fault = self.chance.choice(can) if kind == "edge" else kind
        self.left -= 1
        self.done[fault] += 1
        return fault
