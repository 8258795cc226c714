"""What can be said of rivals before anything is labelled."""

from collections.abc import Iterator

from atgen_ray.config.rivals import FewShotRival
from atgen_ray.preflight.check import Setting
from atgen_ray.preflight.inputs import Inputs


def check_rivals(setting: Setting, inputs: Inputs) -> Iterator[str]:
    """Find a rival that wants more labels than the run will have, and rivals of a run that
    evaluates nothing.
    """
    config = setting.config
    evaluation = config.evaluation
    if setting.goal != "run" or not evaluation.rivals:
        return
    if config.data.test is None and evaluation.audit is None and not evaluation.dev_fraction:
        yield (
            "evaluation.rivals is given, but nothing is evaluated: expected data.test, "
            "evaluation.audit or evaluation.dev_fraction beside it"
        )
    if config.fork_from is not None or config.data.labeled is not None:
        return  # how many labels these bring is not known here
    labels = sum(config.count_picks(round) for round in range(1, config.rounds + 1))
    labels = min(labels, config.stopping.labels or labels)
    if inputs.pool is not None:
        labels = min(labels, inputs.pool.examples.num_rows)
    for place, rival in enumerate(evaluation.rivals):
        if isinstance(rival, FewShotRival) and rival.k > labels:
            yield (
                f"evaluation.rivals.{place}.k is {rival.k}, expected at most the {labels} labels "
                f"that the run buys"
            )
