"""Likelihood of given answers: which rows an engine scores, and what its outputs say of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa

from atgen_ray.core.errors import UserError
from atgen_ray.engines.base import Engine

SEPARATOR = "#"  # between the id of an example and the number of its reference


def list_references(
    texts: Mapping[str, str], references: Mapping[str, Sequence[str]], engine: Engine
) -> pa.Table:
    """Return a row for each reference of each example: id (with the reference's number), text and
    answer.

    Raises:
        UserError: the engine cannot score given answers.
    """
    if not getattr(engine, "scores_answers", False):
        raise UserError(
            f"evaluation.metrics holds 'nll', which the engine '{engine.name}' cannot compute, "
            f"expected one of transformers, vllm and sglang, with model.host=batch"
        )
    rows = [
        {"id": f"{id_}{SEPARATOR}{number}", "text": text, "answer": reference}
        for id_, text in texts.items()
        for number, reference in enumerate(references.get(id_, ()))
    ]
    return pa.Table.from_pylist(
        rows, pa.schema([("id", pa.string()), ("text", pa.string()), ("answer", pa.string())])
    )


def read_nats(features: pa.Table) -> dict[str, list[float]]:
    """Return minus the mean log-probability of the tokens of each reference, by example; without
    those that the engine could not score.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for row in features.select(["id", "logprobs", "error"]).to_pylist():
        if row["error"] is None and row["logprobs"]:
            id_ = row["id"].rpartition(SEPARATOR)[0]
            found[id_].append(-sum(row["logprobs"]) / len(row["logprobs"]))
    return dict(found)
