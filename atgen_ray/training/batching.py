"""Token ids and loss masks: only the answer and its end-of-turn token are learnt.

Micro-batches as tensors: padded on the right, or laid end to end without padding.

End to end, every example attends to itself alone: attention runs once an example, by the exact
causal kernel, and positions start anew. Nothing but rounding tells the two apart.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface

if TYPE_CHECKING:
    from atgen_ray.models.prompts import PromptBuilder

IGNORED = -100


def build_row(
    builder: "PromptBuilder", text: str, answer: str, max_answer_tokens: int
) -> dict[str, list[int]]:
    """One training row: `input_ids`, `attention_mask` and `labels`, all of one length.

    The mask goes by position, never by token id, so a model whose padding token is its end token
    still learns to stop. An over-long prompt is shortened, an answer never is, up to the longest
    that the model may generate.
    """
    prompt = builder.encode(text)
    answer_ids = builder.encode_answer(answer)[:max_answer_tokens]
    return {
        "input_ids": prompt + answer_ids,
        "attention_mask": [1] * (len(prompt) + len(answer_ids)),
        "labels": [IGNORED] * len(prompt) + answer_ids,
    }


PACKED = "atgen_packed"
UNKNOWN = ("softcap", "s_aux", "position_bias")  # by the names that transformers gives them
Batch = dict[str, Any]
Row = dict[str, list[Any]]


def pad_rows(rows: Sequence[Row], filler: int) -> Batch:
    """`input_ids`, `attention_mask`, `position_ids` and `labels` of shape (B, T), whatever side the
    tokenizer pads on.

    And `weights` of the tokens in the loss, where rows have them.

    Masks go by position: `filler` may be any token, the end of sequence too.
    """
    width = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), width), filler),
        "attention_mask": torch.zeros((len(rows), width), dtype=torch.long),
        "labels": torch.full((len(rows), width), IGNORED),
    }
    for at, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][at, :length] = torch.tensor(row["input_ids"])
        batch["attention_mask"][at, :length] = 1
        batch["labels"][at, :length] = torch.tensor(row["labels"])
        if "weights" in row:
            batch.setdefault("weights", torch.zeros((len(rows), width)))[at, :length] = (
                torch.tensor(row["weights"])
            )
    return batch | {"position_ids": torch.arange(width).repeat(len(rows), 1)}


def pack_rows(rows: Sequence[Row]) -> Batch:
    """`input_ids`, `position_ids` and `labels` of shape (1, T) and `segments`, the lengths of the
    examples in it.

    And `weights` as in `pad_rows`.
    """
    segments = [len(row["input_ids"]) for row in rows]
    weights = [weight for row in rows for weight in row.get("weights", ())]
    return ({"weights": torch.tensor([weights])} if weights else {}) | {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "position_ids": torch.cat([torch.arange(length) for length in segments])[None],
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "segments": segments,
    }


def attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    segments: Sequence[int] | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each of `segments`: query (1, H, T, d), key and value (1, H / groups,
    T, d).

    Raises ValueError where a model wants its attention capped, biased or given sinks.
    """
    if unknown := [name for name in UNKNOWN if more.get(name) is not None]:
        raise ValueError(f"packed attention knows no {unknown[0]}")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    parts = []
    lengths = list(segments or [query.shape[2]])
    for q, k, v in zip(
        *(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True
    ):
        mask = (
            _window(q.shape[2], sliding_window, q.device)
            if sliding_window and q.shape[2] > sliding_window
            else None
        )
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, window: int, device: torch.device) -> torch.Tensor:
    places = torch.arange(length, device=device)
    behind = places[:, None] - places[None, :]
    return (behind >= 0) & (behind < window)


def enable_packing(model: Any, rows: Sequence[Row]) -> bool:
    """Whether packed examples have the logits they have alone; only then is `model` left to attend
    packed.

    Some families bias, cap or mix attention in ways that `attend_packed` does not know; it is
    tried, not guessed.
    """
    AttentionInterface.register(PACKED, attend_packed)
    if not getattr(model, "_supports_attention_backend", False) or getattr(
        model.config, "is_encoder_decoder", False
    ):
        return False
    before = model.config._attn_implementation
    probe = [{name: values[-12:] for name, values in row.items()} for row in (rows[0], rows[-1])]
    alone = [
        _last_logits(model, {"input_ids": torch.tensor([row["input_ids"]])}, [-1]) for row in probe
    ]
    try:
        model.set_attn_implementation(PACKED)
        packed = {name: value for name, value in pack_rows(probe).items() if name != "labels"}
        together = _last_logits(model, packed, [packed["segments"][0] - 1, -1])
    except (TypeError, ValueError, RuntimeError):  # a forward pass that does not take the arguments
        model.set_attn_implementation(before)
        return False
    expected = torch.cat(alone)
    difference = float((together - expected).abs().mean() / expected.abs().mean().clamp(min=1e-6))
    if not difference < (1e-4 if model.dtype == torch.float32 else 0.05):
        model.set_attn_implementation(before)
        return False
    return True


def _last_logits(model: Any, batch: Batch, places: list[int]) -> torch.Tensor:
    training = model.training
    device = next(model.parameters()).device
    moved = {
        name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()
    }
    with torch.no_grad():
        logits = model.eval()(**moved, use_cache=False).logits[0, places].float()
    model.train(training)
    return logits
