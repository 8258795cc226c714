"""Hidden states of the model that is taught: one vector an example, for strategies that look inside
it.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.records import Progress
from atgen_ray.models.loading import load_tokenizer, load_tuned
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.ray_runtime.placement import fit_gpus
from atgen_ray.ray_runtime.workers import map_batches

STATE_SCHEMA = pa.schema([("id", pa.string()), ("state", pa.list_(pa.float32()))])


def append_states(
    features: pa.Table,
    examples: pa.Table,
    model: ModelConfig,
    prompt: PromptConfig,
    engine: EngineConfig,
    adapter: Path | None,
    progress: Progress,
) -> pa.Table:
    """`features` with a column `state`, float32 (d,) a row: the mean last hidden state over the
    output's tokens.

    One forward pass of transformers over prompt and output, whichever engine generated them. A row
    without output has null.

    Args:
        features: FEATURES_SCHEMA.
        examples: columns id and text, of the same ids.
    """
    import ray.data

    texts = dict(zip(examples["id"].to_pylist(), examples["text"].to_pylist(), strict=True))
    rows = [
        {"id": row["id"], "text": texts[row["id"]], "token_ids": row["token_ids"]}
        for row in features.select(["id", "token_ids"]).to_pylist()
        if row["token_ids"]
    ]
    rows.sort(key=lambda row: (-len(row["text"]), row["id"]))
    size = engine.batch_size
    blocks = [
        pa.Table.from_pylist(rows[start : start + size]) for start in range(0, len(rows), size)
    ]
    threads = count_threads(engine.workers, engine.threads_per_worker)
    states: dict[str, Any] = {}
    dataset = map_batches(
        ray.data.from_arrow(blocks),
        StateReader,
        (model, prompt, adapter, threads),
        workers=engine.workers,
        cpus=engine.cpus_per_worker,
        gpus=fit_gpus("engine.gpus_per_worker", engine.workers, engine.gpus_per_worker),
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        states |= dict(zip(block["id"].to_pylist(), block["state"].to_pylist(), strict=True))
        progress(len(states), len(rows))
    column = pa.array(
        [states.get(id_) for id_ in features["id"].to_pylist()], STATE_SCHEMA.field("state").type
    )
    return features.append_column("state", column)


class StateReader:
    """One replica of the model that reads and does not write."""

    def __init__(
        self, model: ModelConfig, prompt: PromptConfig, adapter: Path | None, threads: int
    ) -> None:
        import torch

        from atgen_ray.models.prompts import PromptBuilder

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.prompts = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
        loaded: Any = load_tuned(model, adapter).to(self.device)
        self.backbone = (
            loaded.base_model
        )  # without the output layer, whose logits nobody reads here

    def __call__(self, batch: pa.Table) -> pa.Table:
        import torch

        rows = batch.to_pylist()
        prompts = [self.prompts.encode(row["text"]) for row in rows]
        sequences = [
            torch.tensor(prompt + row["token_ids"])
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        # Padding stands on the right: causal attention never sees it.
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        with torch.inference_mode():
            hidden = self.backbone(input_ids=padded.to(self.device)).last_hidden_state.float().cpu()
        states = [
            hidden[index, len(prompt) : len(sequence)].mean(0).numpy()
            for index, (prompt, sequence) in enumerate(zip(prompts, sequences, strict=True))
        ]
        return pa.table(
            {"id": batch["id"], "state": pa.array(states, STATE_SCHEMA.field("state").type)}
        )
