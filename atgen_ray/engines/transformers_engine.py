"""Engine without vLLM: transformers in workers of Ray Data, on a CPU or a GPU."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest
from atgen_ray.core.stored import Stored
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine
from atgen_ray.engines.decoding import pad_left
from atgen_ray.engines.output_rows import (
    Prompt,
    Row,
    encode_rows,
    generate_or_halve,
    output_row,
    scored_row,
)
from atgen_ray.models.loading import load_for_inference
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.ray_runtime.placement import fit_gpus
from atgen_ray.ray_runtime.workers import map_batches

if TYPE_CHECKING:
    import torch
    from ray.data import Dataset


class TransformersEngine(Engine):
    """Batched generation with `transformers`; entropies are exact, over the whole vocabulary."""

    name = "transformers"
    scores_answers = True

    def __init__(self, model: ModelConfig, prompt: PromptConfig, engine: EngineConfig) -> None:
        self._model = model
        self._prompt = prompt
        self._engine = engine

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Stored | None
    ) -> "Dataset":

        engine = self._engine
        return map_batches(
            rows,
            TransformersWorker,
            (self._model, self._prompt, request, adapter, engine),
            workers=engine.workers,
            cpus=engine.cpus_per_worker,
            gpus=fit_gpus("engine.gpus_per_worker", engine.workers, engine.gpus_per_worker),
        )


class TransformersWorker:
    """One replica: the base model, with an adapter merged into it in memory."""

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        request: GenerationRequest,
        adapter: Stored | None,
        engine: EngineConfig,
    ) -> None:
        # The cores are those of this node, which need not be those of the controller's.
        threads = count_threads(engine.workers, engine.threads_per_worker)
        loaded = load_for_inference(model, prompt, adapter, threads)
        self.request = request
        self.prompts = loaded.prompts
        self.model = loaded.model
        self.device = loaded.device

    def __call__(self, batch: pa.Table) -> pa.Table:

        prompts, outputs = encode_rows(self.prompts, batch.to_pylist(), self.request.max_new_tokens)
        given = [prompt for prompt in prompts if prompt.answer_ids]
        outputs += generate_or_halve(given, self._score_batch)
        prompts = [prompt for prompt in prompts if not prompt.answer_ids]
        greedy = [prompt for prompt in prompts if prompt.sample == 0]
        drawn = [prompt for prompt in prompts if prompt.sample > 0]
        # One call of `generate` has one temperature for all rows.
        outputs += generate_or_halve(greedy, partial(self._generate_batch, sampled=False))
        outputs += generate_or_halve(drawn, partial(self._generate_batch, sampled=True))
        return pa.Table.from_pylist(outputs, schema=OUTPUT_SCHEMA)

    def _score_batch(self, prompts: list[Prompt]) -> list[Row]:
        """Score given answers in one forward pass; logits are computed for their tokens alone."""
        import torch

        sequences = [prompt.token_ids + prompt.answer_ids for prompt in prompts]
        longest = max(len(prompt.answer_ids) for prompt in prompts)
        input_ids, mask = pad_left(sequences, filler=self.prompts.stop_ids[0])
        with torch.inference_mode():
            logits = self.model(
                input_ids=input_ids.to(self.device),
                attention_mask=mask.to(self.device),
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(self.device),
                logits_to_keep=longest + 1,
                use_cache=False,
            ).logits[:, :-1]
            targets = input_ids[:, -longest:].to(self.device)
            chosen = torch.log_softmax(logits.float(), -1).gather(2, targets[..., None])
        found = chosen.squeeze(2).cpu()
        return [
            scored_row(
                prompt,
                prompt.read_answer(self.prompts, prompt.answer_ids),
                found[index, longest - len(prompt.answer_ids) :].tolist(),
            )
            for index, prompt in enumerate(prompts)
        ]

    def _generate_batch(self, prompts: list[Prompt], sampled: bool) -> list[Row]:
        """Generate for all prompts in one call, greedily or by sampling."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        stop_ids = self.prompts.stop_ids
        input_ids, attention_mask = pad_left(
            [prompt.token_ids for prompt in prompts], filler=stop_ids[0]
        )
        recorder = StepRecorder(self.request.top_logprobs)
        sampling: dict[str, Any] = {}
        if sampled:
            sampling = {
                "temperature": self.request.temperature,
                "top_p": self.request.top_p,
                "top_k": 0,
            }
        # Never use the checkpoint's own generation settings: they sample, penalise and truncate.
        settings = GenerationConfig(
            max_new_tokens=self.request.max_new_tokens,
            do_sample=sampled,
            **sampling,
            eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
        )
        torch.manual_seed(mix_seed(self.request.seed, prompts[0].id, prompts[0].sample))
        with torch.inference_mode():
            sequences = self.model.generate(
                input_ids=input_ids.to(self.device),
                attention_mask=attention_mask.to(self.device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([recorder]),
            )
        generated = sequences[:, input_ids.shape[1] :].cpu()
        steps = recorder.finish(generated)
        return [
            self._row(prompt, generated[index].tolist(), steps, index)
            for index, prompt in enumerate(prompts)
        ]

    def _row(self, prompt: Prompt, tokens: list[int], steps: "RecordedSteps", index: int) -> Row:
        """Return the output row of the sequence at `index`, cut after its first stop token."""
        stops = [
            position for position, token in enumerate(tokens) if token in self.prompts.stop_ids
        ]
        length = stops[0] + 1 if stops else len(tokens)
        return output_row(
            id=prompt.id,
            sample=prompt.sample,
            prompt_tokens=len(prompt.token_ids),
            text=prompt.read_answer(self.prompts, tokens[:length]),
            token_ids=tokens[:length],
            logprobs=steps.logprobs[index, :length].tolist(),
            entropies=steps.entropies[index, :length].tolist(),
            top_logprobs=steps.top_logprobs[index, :length].tolist(),
            finish_reason="stop" if stops else "length",
        )


@dataclass(frozen=True)
class RecordedSteps:
    """What a model computed at each step of a batch, before any temperature or top-p."""

    logprobs: "torch.Tensor"  # of the chosen tokens (B, T), in nats
    entropies: "torch.Tensor"  # (B, T), in nats
    top_logprobs: "torch.Tensor"  # (B, T, k), in nats


class StepRecorder:
    """Logits processor that changes nothing and records every step, before any temperature or
    top-p.
    """

    def __init__(self, top_logprobs: int) -> None:
        self._top = top_logprobs
        self._last: torch.Tensor | None = None
        self._chosen: list[torch.Tensor] = []
        self._entropies: list[torch.Tensor] = []
        self._top_logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        if self._last is not None:
            self._chosen.append(self._last.gather(1, input_ids[:, -1:]).squeeze(1))
        logprobs = torch.log_softmax(scores.float(), dim=-1)
        self._last = logprobs
        self._entropies.append(torch.special.entr(logprobs.exp()).sum(-1))
        self._top_logprobs.append(logprobs.topk(self._top, dim=-1).values)
        return scores

    def finish(self, generated: "torch.Tensor") -> RecordedSteps:
        """Return what was recorded; `generated` are the generated tokens (B, T)."""
        import torch

        if self._last is None:
            raise RuntimeError("generation took no step")
        self._chosen.append(self._last.cpu().gather(1, generated[:, -1:]).squeeze(1))
        return RecordedSteps(
            logprobs=torch.stack([step.cpu() for step in self._chosen], 1),
            entropies=torch.stack([step.cpu() for step in self._entropies], 1),
            top_logprobs=torch.stack([step.cpu() for step in self._top_logprobs], 1),
        )
