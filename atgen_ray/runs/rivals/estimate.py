"""What the rivals of a run will compute and ask, before it begins."""

from dataclasses import dataclass

from atgen_ray.config import RunConfig
from atgen_ray.config.rivals import FewShotRival, LargerRival, PromptRival, ZeroShotRival


@dataclass(frozen=True)
class RivalWork:
    """Rows of the rivals: answers that the run's model gives, answers that are graded, questions
    to larger models, and texts that are embedded.
    """

    generated: int = 0
    graded: int = 0
    asked: int = 0
    embedded: int = 0


def estimate_rivals(config: RunConfig, test: int, measured: int, learnt: int) -> RivalWork:
    """Return the work of all rivals at the end of a run.

    Args:
        test: examples of the test set.
        measured: labels of the audit, which count where there is no test set.
        learnt: labels in the end, dev split included.
    """
    evaluation = config.evaluation
    dev = round(learnt * evaluation.dev_fraction)
    rows = test or measured or dev
    generated = graded = asked = 0
    for rival in evaluation.rivals if rows else ():
        if isinstance(rival, ZeroShotRival):
            if test or measured:
                continue  # round 0 has scored it
            generated += rows
        elif isinstance(rival, FewShotRival):
            generated += rows
        elif isinstance(rival, PromptRival):
            tried = 1 + len(rival.instructions) + rival.proposals
            held = min(rival.held_out, (learnt - dev) // 2)
            generated += rival.proposals + tried * held + rows
        elif isinstance(rival, LargerRival):
            asked += rows
        graded += rows
    embedded = rows + learnt - dev if rows and evaluation.retrieves else 0
    return RivalWork(generated, graded, asked, embedded)
