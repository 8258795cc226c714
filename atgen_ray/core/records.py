"""Table schemas and small records that the steps of a run pass to each other.

An example is known by its id everywhere; its position in a table never leaves a module.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

SAMPLES = 10  # outputs drawn for strategies that compare samples (as in arXiv 2006.08344)

# pool.parquet and test.parquet: what strategies, engines and annotators may see. No answers here.
POOL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # hash of split, content and source row
        ("row", pa.int64()),  # row in the source, from 0
        ("text", pa.string()),  # the user turn: the filled template
        ("content", pa.string()),  # hash of `text`, the key of the embedding cache
        ("duplicate_of", pa.string()),  # id of the earlier near-duplicate, or null
    ]
)

# `content` of an example that was deleted on request: its row has no text, and keeps its place.
TOMBSTONE = ""
DELETED = "deleted"  # step of the dead letter of an example, or of a label, that was deleted

# gold.parquet: opened by the dataset annotator and the evaluator only.
GOLD_SCHEMA = pa.schema([("id", pa.string()), ("references", pa.list_(pa.string()))])

# context.parquet, where data.context names columns, people label or a strategy reads columns: what
# people see beside an input, as a JSON object of texts by column, and the short columns of the row
# without its answers, as a JSON object too.
CONTEXT_SCHEMA = pa.schema([("id", pa.string()), ("context", pa.string()), ("fields", pa.string())])

# rounds/NNN/features.parquet: one generation pass over the candidates.
FEATURES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("text", pa.string()),  # greedy output, end-of-turn token removed
        ("token_ids", pa.list_(pa.int32())),  # greedy output with its end-of-turn token, T long
        ("logprobs", pa.list_(pa.float32())),  # natural log p of each output token, T long
        ("entropies", pa.list_(pa.float32())),  # entropy of each output step in nats, T long
        ("top_logprobs", pa.list_(pa.list_(pa.float32()))),  # T x k, largest first
        ("finish_reason", pa.string()),  # "stop" or "length"
        ("samples", pa.list_(pa.struct([("text", pa.string()), ("logprob", pa.float32())]))),
        ("error", pa.string()),  # why this row has no output, or null
    ]
)

# rounds/NNN/selection.parquet
SELECTION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("rank", pa.int32()),  # from 1
        ("score", pa.float64()),  # as the strategy defines it, larger is picked first
        ("parts", pa.map_(pa.string(), pa.float64())),  # the parts of the score
    ]
)


# Key of a label's provenance: which other run paid for the label, when and how much.
INHERITED = "inherited"

# Annotator of a label of data.labeled, and the key of its provenance with where it was read.
GIVEN = "given"


@dataclass(frozen=True)
class Annotation:
    """A label for an example by an annotator."""

    id: str
    text: str
    annotator: str
    dollars: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DeadLetter:
    """A row that a step could not handle. The report shows it; it never ends a run."""

    id: str
    step: str
    reason: str


@dataclass(frozen=True)
class GenerationRequest:
    """What an engine produces for every prompt: the greedy output with log-probabilities, and
    `samples` further outputs drawn at `temperature` and `top_p`.
    """

    max_new_tokens: int
    top_logprobs: int = 2
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 0


class Progress(Protocol):
    """A function that a step calls as it proceeds, with the rows or optimiser steps done and their
    total. It may raise RunStopped to end the step.
    """

    def __call__(self, done: int, total: int) -> None: ...
