"""Search of an instruction for the untuned model: some are tried on held-out labels, and the best
one is kept.

Instructions that a model writes from solved examples: Zhou et al. 2023, "Large Language Models Are
Human-Level Prompt Engineers" (arXiv 2211.01910). Ours is one round of it, without refinement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from atgen_ray.config import Shot
from atgen_ray.core.hashing import mix_seed
from atgen_ray.evaluation import METRICS
from atgen_ray.text.conversation import Conversation, Turn, show_example

WRITER = "You write instructions for a language model."
ASK = (
    "Below are solved examples of one task. Write the instruction that makes a model give such "
    "answers to inputs of this kind: what to do, and in which form to answer. Write the "
    "instruction alone, without the examples."
)
CHARACTERS = 1500  # of an input or an answer in a request for an instruction


@dataclass(frozen=True)
class Candidate:
    """An instruction, None where the prompt is as the run has it, and its score on the held-out
    labels.
    """

    instruction: str | None
    score: float


def split_labels(ids: Sequence[str], held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Return the labels from which instructions are written, and those that choose one: `held_out`
    of them, but half of all at most, drawn at random.
    """
    order = sorted(ids, key=lambda id_: (mix_seed(seed, "rival prompt", id_), id_))
    count = min(held_out, len(order) // 2)
    return order[count:], order[:count]


def ask_instructions(solved: Sequence[Shot], proposals: int, shown: int, seed: int) -> list[str]:
    """Return `proposals` requests for an instruction, each with another draw of `shown` solved
    examples; none without any.
    """
    if not solved:
        return []
    requests = []
    for number in range(proposals):
        order = sorted(range(len(solved)), key=lambda at: mix_seed(seed, "proposal", number, at))
        parts = [
            f"Input: {show_example(solved[at].input)[:CHARACTERS]}\n"
            f"Answer: {solved[at].output[:CHARACTERS]}"
            for at in order[:shown]
        ]
        question = "\n\n".join([ASK, *parts])
        requests.append(Conversation((Turn("system", WRITER), Turn("user", question))).write())
    return requests


def list_instructions(given: Sequence[str], proposed: Sequence[str]) -> list[str | None]:
    """Return what is tried, each once: the prompt as it is, the user's instructions, and those that
    the model wrote.
    """
    written = (text.strip() for text in (*given, *proposed))
    return [None, *dict.fromkeys(text for text in written if text)]


def choose_search_metric(metrics: Sequence[str], preferred: str | None) -> str | None:
    """Return the metric that chooses: the run's own, if answers can be scored by it without a
    judge, else the first that can; None without any.
    """
    usable = [
        name
        for name in metrics
        if METRICS[name].better != "neither"
        and not METRICS[name].judges
        and not METRICS[name].likelihood
    ]
    return preferred if preferred in usable else next(iter(usable), None)


def rank_instructions(
    instructions: Sequence[str | None],
    scores: Sequence[Mapping[str, float | None]],
    metric: str,
) -> list[Candidate]:
    """Return the instructions with their mean score on the held-out labels, the best first; of
    equal ones the earlier, so that a change must be worth something.
    """
    sign = -1.0 if METRICS[metric].better == "lower" else 1.0
    means = []
    for scored in scores:
        known = [value for value in scored.values() if value is not None]
        means.append(float(np.mean(known)) if known else -sign * np.inf)
    order = sorted(range(len(means)), key=lambda at: -sign * means[at])
    return [Candidate(instructions[at], means[at]) for at in order]
