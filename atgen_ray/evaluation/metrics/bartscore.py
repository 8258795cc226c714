"""BARTScore (Yuan et al., NeurIPS 2021): the likelihood of one text given another, by an
encoder-decoder.

Values are mean log-probabilities in nats a token, below 0; larger is better.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from atgen_ray.core.checkpoints import loading, resolve_checkpoint
from atgen_ray.evaluation.metric import Case, Resources

BATCH = 8


def score_likelihood(
    given: Literal["source", "reference"], cases: Sequence[Case], resources: Resources
) -> list[float]:
    """Return the likelihood of the prediction given the source ("source": faithfulness), or that of
    the reference given the prediction ("reference": recall), the largest over the references.
    """
    model = resources.models.bartscore.model
    if given == "source":
        return score_pairs([(case.source, case.prediction) for case in cases], model)
    pairs = [(case.prediction, reference) for case in cases for reference in case.references]
    scores = iter(score_pairs(pairs, model))
    return [max((next(scores) for _ in case.references), default=math.nan) for case in cases]


def score_pairs(pairs: Sequence[tuple[str, str]], model: str) -> list[float]:
    """Return the mean log-probability in nats of the tokens of each second text given the first,
    special tokens included.
    """
    import torch

    scorer, tokenizer = _load(model)
    device = next(scorer.parameters()).device
    longest = min(tokenizer.model_max_length, scorer.config.max_position_embeddings)
    scores: list[float] = []
    for start in range(0, len(pairs), BATCH):
        given, asked = zip(*pairs[start : start + BATCH], strict=True)
        settings = {
            "padding": True,
            "truncation": True,
            "max_length": longest,
            "return_tensors": "pt",
        }
        source = tokenizer(list(given), **settings).to(device)
        target = tokenizer(list(asked), **settings).to(device)
        labels = target["input_ids"]
        with torch.inference_mode():
            logits = scorer(
                input_ids=source["input_ids"],
                attention_mask=source["attention_mask"],
                labels=labels,
            ).logits.float()
        # Padding is masked, since the model gives its tokens a probability too.
        chosen = torch.log_softmax(logits, -1).gather(2, labels[..., None]).squeeze(2)
        mask = target["attention_mask"]
        scores += ((chosen * mask).sum(1) / mask.sum(1)).tolist()
    return scores


@lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    source = resolve_checkpoint(model, "evaluation.models.bartscore.model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loading("evaluation.models.bartscore.model", model):
        scorer = (
            AutoModelForSeq2SeqLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
            .to(device)
            .eval()
        )
        return scorer, AutoTokenizer.from_pretrained(source)
