"""Training rows and micro-batches: token ids and loss masks, padded on the right or packed end to
end.

Only the answer and its end-of-turn token count in the loss; of a conversation the assistant's
earlier turns too, where training.turns is "all". In a packed batch every example attends
to itself alone: attention runs once per example with the exact causal kernel, and positions start
anew, so packing changes nothing but rounding.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AttentionInterface

if TYPE_CHECKING:
    from atgen_ray.models.prompts import PromptBuilder

IGNORED = -100  # label of a token that does not count in the loss
PACKED = "atgen_packed"  # name of the attention function in transformers
# Arguments that `attend_packed` does not support, by the names that transformers gives them.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
Batch = dict[str, Any]
Row = dict[str, list[Any]]


def build_row(
    builder: "PromptBuilder",
    text: str,
    answer: str,
    max_answer_tokens: int,
    turns: Literal["last", "all"] = "last",
) -> dict[str, list[int]]:
    """Return one training row: `input_ids`, `attention_mask` and `labels`, all of one length.

    The mask goes by position, never by token id, so a model whose padding token is its end token
    still learns to stop. An over-long prompt is shortened, an answer never is, up to the longest
    that the model may generate. `turns` says which turns of the assistant are learned.
    """
    if turns == "all":
        prompt, learned = builder.encode_turns(text)
    else:
        prompt = builder.encode(text)
        learned = [False] * len(prompt)
    answer_ids = builder.encode_answer(answer, text)[:max_answer_tokens]
    before = [token if counts else IGNORED for token, counts in zip(prompt, learned, strict=True)]
    return {
        "input_ids": prompt + answer_ids,
        "attention_mask": [1] * (len(prompt) + len(answer_ids)),
        "labels": before + answer_ids,
    }


def pad_rows(rows: Sequence[Row], filler: int) -> Batch:
    """Return `input_ids`, `attention_mask`, `position_ids` and `labels` of shape (B, T), padded on
    the right; and `weights` of the tokens in the loss, where rows have them.

    Masks go by position, so `filler` may be any token, the end of sequence too.
    """
    width = max(len(row["input_ids"]) for row in rows)
    batch = {
        "input_ids": torch.full((len(rows), width), filler),
        "attention_mask": torch.zeros((len(rows), width), dtype=torch.long),
        "labels": torch.full((len(rows), width), IGNORED),
    }
    if any("weights" in row for row in rows):
        batch["weights"] = torch.zeros((len(rows), width))
    for at, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][at, :length] = torch.tensor(row["input_ids"])
        batch["attention_mask"][at, :length] = 1
        batch["labels"][at, :length] = torch.tensor(row["labels"])
        if "weights" in row:
            batch["weights"][at, :length] = torch.tensor(row["weights"])
    batch["position_ids"] = torch.arange(width).repeat(len(rows), 1)
    return batch


def pack_rows(rows: Sequence[Row]) -> Batch:
    """Return `input_ids`, `position_ids` and `labels` of shape (1, T), and `segments`, the lengths
    of the examples; and `weights` as in `pad_rows`.
    """
    segments = [len(row["input_ids"]) for row in rows]
    batch: Batch = {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "position_ids": torch.cat([torch.arange(length) for length in segments])[None],
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "segments": segments,
    }
    weights = [weight for row in rows for weight in row.get("weights", ())]
    if weights:
        batch["weights"] = torch.tensor([weights])
    return batch


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
    """Compute causal attention within each of `segments`: query (1, H, T, d), key and value (1, H /
    groups, T, d).

    Raises:
        ValueError: the model needs attention that is capped, biased or has sinks.
    """
    if unknown := [name for name in UNSUPPORTED if more.get(name) is not None]:
        raise ValueError(f"packed attention knows no {unknown[0]}")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    parts = []
    lengths = list(segments or [query.shape[2]])
    queries = query.split(lengths, dim=2)
    keys = key.split(lengths, dim=2)
    values = value.split(lengths, dim=2)
    for q, k, v in zip(queries, keys, values, strict=True):
        # Without a mask the exact causal kernel is used, so build one only for a real window.
        mask = None
        if sliding_window and q.shape[2] > sliding_window:
            mask = _window(q.shape[2], sliding_window, q.device)
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, window: int, device: torch.device) -> torch.Tensor:
    """Return the mask of causal attention with a sliding window, bool (length, length)."""
    positions = torch.arange(length, device=device)
    behind = positions[:, None] - positions[None, :]
    return (behind >= 0) & (behind < window)


def enable_packing(model: Any, rows: Sequence[Row]) -> bool:
    """Make `model` attend packed, and return True, if packed examples have the same logits as
    single ones.

    Some model families bias, cap or mix attention in ways that `attend_packed` does not support, so
    two short examples are compared. Otherwise the model stays as it was.
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
    except (TypeError, ValueError, RuntimeError):  # the forward pass does not take the arguments
        model.set_attn_implementation(before)
        return False
    expected = torch.cat(alone)
    difference = float((together - expected).abs().mean() / expected.abs().mean().clamp(min=1e-6))
    if not difference < (1e-4 if model.dtype == torch.float32 else 0.05):
        model.set_attn_implementation(before)
        return False
    return True


def _last_logits(model: Any, batch: Batch, places: list[int]) -> torch.Tensor:
    """Return the logits of `batch` at `places`, float32 (places, vocabulary), in eval mode."""
    training = model.training
    device = next(model.parameters()).device
    moved = {
        name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()
    }
    with torch.no_grad():
        logits = model.eval()(**moved, use_cache=False).logits[0, places].float()
    model.train(training)
    return logits
