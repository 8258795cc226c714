"""What the scores of each query strategy mean, in plain words."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Explanation:
    """Why a strategy picks what it picks, what its score is, and what each part of the score
    says.
    """

    why: str
    score: str
    parts: dict[str, str] = field(default_factory=dict)


FILLED = "1: the strategy could not rank this example, so it was drawn at random to fill the batch."

EXPLANATIONS = {
    "random": Explanation(
        why="Every unlabelled example had the same chance. This is the baseline that other "
        "strategies must beat.",
        score="The example's random draw between 0 and 1; the largest draws were picked.",
    ),
    "huds": Explanation(
        why="These examples are hard for the model and unlike others that are just as hard: a "
        "weighted sum of how "
        "uncertain the model is and how far the example lies from its neighbours in difficulty.",
        score="Weighted sum of uncertainty and diversity; larger was picked first.",
        parts={
            "uncertainty": "How unsure the model was of its own answer: by default a rank from 0 "
            "to 1, the least sure.",
            "diversity": "How unlike others of like uncertainty it is: by default a rank from 0 "
            "to 1, the most unlike.",
            "nll": "Negative log-likelihood of the model's own answer for each token, in nats; "
            "larger is less sure.",
            "stratum": "Band of uncertainty that the example fell into, from 0 for the surest.",
            "distance": "Cosine distance to the centre of its band; larger is further from the "
            "typical example.",
        },
    ),
    "facility_location": Explanation(
        why="Together these examples stand for the whole pool: each pick is the one that best "
        "covers what neither the "
        "labels so far nor the picks before it cover.",
        score="What the pick added to the coverage of the pool when it was chosen.",
        parts={
            "gain": "Similarity to the pool that this pick added, summed over all unlabelled "
            "examples; it falls from "
            "pick to pick as less is left to cover.",
            "nearest_labeled": "Cosine similarity to the nearest example labelled before; 1 is "
            "the same, 0 unrelated.",
        },
    ),
}


def explain_strategy(name: str) -> Explanation:
    """The explanation of strategy `name`, a general one if it is not known here."""
    general = Explanation(
        why=f"Strategy '{name}' ranked the unlabelled examples by its score and took the best.",
        score="As the strategy defines it; larger was picked first.",
    )
    return EXPLANATIONS.get(name, general)


def explain_part(strategy: str, part: str) -> str:
    """One line on a part of the score."""
    if part == "filled":
        return FILLED
    return explain_strategy(strategy).parts.get(
        part, "A part of the score, as the strategy defines it."
    )
