"""What the experiment on drafts finds, with simulated people: whether its intervals hold where
drafts do nothing, and how often it sees people who are anchored by drafts.

    python benchmarks/drafts.py --trials 400
"""

import argparse
import random
import time

from atgen_ray.annotation.human.draft_experiment import Answer, choose_drafts, compare_halves

WORDS = [f"word{index}" for index in range(300)]


def simulate(
    examples: int, people: int, overlap: int, kept: float, faster: float, seed: int
) -> list[Answer]:
    """Answers of people who keep each word of a draft with probability `kept` where they see it,
    and are `faster` times as fast then.
    """
    rng = random.Random(seed)
    speeds = [rng.lognormvariate(3.4, 0.5) for _ in range(people)]
    answers = []
    for index in range(examples):
        id_ = f"e{index}"
        hard = rng.lognormvariate(0.0, 0.4)
        draft = [rng.choice(WORDS) for _ in range(12)]
        shown = choose_drafts("experiment", f"run-{seed}", id_) == "shown"
        for who in rng.sample(range(people), overlap):
            own = [word if rng.random() < 0.3 else rng.choice(WORDS) for word in draft]
            if shown:
                own = [
                    old if rng.random() < kept else new for old, new in zip(draft, own, strict=True)
                ]
            seconds = speeds[who] * hard * rng.lognormvariate(0.0, 0.5)
            seconds /= faster if shown else 1.0
            answers.append(Answer(id_, f"p{who}", " ".join(own), seconds, " ".join(draft), shown))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print("| examples | people | overlap | words kept | times as fast | seconds | distance |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    started = time.monotonic()
    for examples, people, overlap, kept, faster in (
        (60, 3, 1, 0.0, 1.0),
        (200, 5, 2, 0.0, 1.0),
        (60, 3, 1, 0.2, 1.3),
        (200, 5, 2, 0.1, 1.1),
        (200, 5, 2, 0.2, 1.3),
    ):
        certain = {"seconds": 0, "distance": 0}
        for trial in range(trials):
            found = compare_halves(simulate(examples, people, overlap, kept, faster, trial))
            for effect in found.effects:
                if effect.name in certain:
                    certain[effect.name] += effect.is_certain
        shares = [f"{certain[name] / trials:.3f}" for name in certain]
        print(
            f"| {examples} | {people} | {overlap} | {kept} | {faster} | {' | '.join(shares)} |",
            flush=True,
        )
    print(f"\nShare of {trials} trials whose interval leaves out no effect.")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
