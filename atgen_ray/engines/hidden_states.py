"""Hidden states of the target model: one vector an example, for strategies that use them."""

import pyarrow as pa
import pyarrow.compute as pc

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.records import Progress
from atgen_ray.core.stored import Stored
from atgen_ray.models.loading import load_for_inference
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
    adapter: Stored | None,
    progress: Progress,
) -> pa.Table:
    """Return `features` with a column `state`, float32 (d,) a row: the mean last hidden state over
    the output's tokens.

    One forward pass of transformers over prompt and output, whichever engine generated the output.
    A row without output has null.

    Args:
        features: FEATURES_SCHEMA.
        examples: columns id and text, of the same ids.
    """
    import ray.data

    at = pc.index_in(features["id"], examples["id"].combine_chunks())
    rows = pa.table(
        {
            "id": features["id"],
            "text": examples["text"].take(at),
            "token_ids": features["token_ids"],
        }
    )
    rows = rows.filter(pc.greater(pc.list_value_length(rows["token_ids"]), 0))
    # Rows of similar length share a batch, which saves padding; the longest fail first.
    rows = rows.append_column("length", pc.utf8_length(rows["text"]))
    rows = rows.sort_by([("length", "descending"), ("id", "ascending")]).drop_columns("length")
    size = engine.batch_size
    found = [STATE_SCHEMA.empty_table()]
    dataset = map_batches(
        ray.data.from_arrow([rows.slice(start, size) for start in range(0, len(rows), size)]),
        StateReader,
        (model, prompt, adapter, engine),
        workers=engine.workers,
        cpus=engine.cpus_per_worker,
        gpus=fit_gpus("engine.gpus_per_worker", engine.workers, engine.gpus_per_worker),
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        found.append(block.cast(STATE_SCHEMA))
        progress(sum(map(len, found)), len(rows))
    states = pa.concat_tables(found)
    at = pc.index_in(features["id"], states["id"].combine_chunks())
    return features.append_column(STATE_SCHEMA.field("state"), states["state"].take(at))


class StateReader:
    """One replica of the model that computes hidden states and generates nothing."""

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        adapter: Stored | None,
        engine: EngineConfig,
    ) -> None:
        threads = count_threads(engine.workers, engine.threads_per_worker)
        loaded = load_for_inference(model, prompt, adapter, threads)
        self.device = loaded.device
        self.prompts = loaded.prompts
        self.backbone = loaded.model.base_model  # without the output layer: no logits are needed

    def __call__(self, batch: pa.Table) -> pa.Table:
        import torch

        rows = batch.to_pylist()
        prompts = [self.prompts.encode(row["text"]) for row in rows]
        sequences = [
            torch.tensor(prompt + row["token_ids"])
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        # Pad on the right, where causal attention never sees it.
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
