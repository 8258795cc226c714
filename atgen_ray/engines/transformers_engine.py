"""The engine for machines with neither vLLM nor a GPU: transformers in workers of Ray Data."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atgen_ray.config import EngineConfig, ModelConfig, PromptConfig
from atgen_ray.core.hashing import mix_seed
from atgen_ray.core.records import GenerationRequest
from atgen_ray.engines.base import OUTPUT_SCHEMA, Engine
from atgen_ray.engines.output_rows import Prompt, encode_rows, failed_row
from atgen_ray.models.loading import load_tokenizer, load_tuned
from atgen_ray.models.prompts import PromptBuilder
from atgen_ray.ray_runtime.hardware import count_threads
from atgen_ray.ray_runtime.placement import fit_gpus
from atgen_ray.ray_runtime.workers import map_batches

if TYPE_CHECKING:
    import torch
    from ray.data import Dataset


class TransformersEngine(Engine):
    """Batched generation with `transformers`; the entropies are those of the whole vocabulary."""

    name = "transformers"

    def __init__(self, model: ModelConfig, prompt: PromptConfig, engine: EngineConfig) -> None:
        self._model = model
        self._prompt = prompt
        self._engine = engine

    def generate(
        self, rows: "Dataset", request: GenerationRequest, adapter: Path | None
    ) -> "Dataset":

        engine = self._engine
        threads = count_threads(engine.workers, engine.threads_per_worker)
        return map_batches(
            rows,
            TransformersWorker,
            (self._model, self._prompt, request, adapter, threads),
            workers=engine.workers,
            cpus=engine.cpus_per_worker,
            gpus=fit_gpus("engine.gpus_per_worker", engine.workers, engine.gpus_per_worker),
        )


class TransformersWorker:
    """One replica: the base model with an adapter merged into it in memory."""

    def __init__(
        self,
        model: ModelConfig,
        prompt: PromptConfig,
        request: GenerationRequest,
        adapter: Path | None,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.request = request
        self.prompts = PromptBuilder(load_tokenizer(model), prompt, model.max_prompt_tokens)
        self.model: Any = load_tuned(model, adapter).to(self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:

        prompts, outputs = encode_rows(self.prompts, batch.to_pylist())
        for sampled in (False, True):
            outputs += self._generate(
                [prompt for prompt in prompts if bool(prompt.sample) is sampled], sampled
            )
        return pa.Table.from_pylist(outputs, schema=OUTPUT_SCHEMA)

    def _generate(self, prompts: list[Prompt], sampled: bool) -> list[dict[str, Any]]:
        """Halves a batch that fails (out of memory, a poisonous row) until the row at fault stands
        alone.
        """
        if not prompts:
            return []
        try:
            return self._generate_batch(prompts, sampled)
        except RuntimeError as error:
            if len(prompts) == 1:
                return [failed_row(prompts[0].id, prompts[0].sample, f"generation failed: {error}")]
        half = len(prompts) // 2
        return self._generate(prompts[:half], sampled) + self._generate(prompts[half:], sampled)

    def _generate_batch(self, prompts: list[Prompt], sampled: bool) -> list[dict[str, Any]]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        width = max(len(prompt.token_ids) for prompt in prompts)
        stop_ids = self.prompts.stop_ids
        input_ids = torch.full((len(prompts), width), stop_ids[0])
        attention_mask = torch.zeros_like(input_ids)
        for index, prompt in enumerate(prompts):
            input_ids[index, width - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            attention_mask[index, width - len(prompt.token_ids) :] = 1
        recorder = StepRecorder(self.request.top_logprobs)
        # Never the checkpoint's own generation settings: they sample, penalise and truncate.
        settings = GenerationConfig(
            max_new_tokens=self.request.max_new_tokens,
            do_sample=sampled,
            **(
                {"temperature": self.request.temperature, "top_p": self.request.top_p, "top_k": 0}
                if sampled
                else {}
            ),
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
        generated = sequences[:, width:].cpu()
        steps = recorder.finish(generated)
        return [
            self._row(prompt, generated[index].tolist(), steps, index)
            for index, prompt in enumerate(prompts)
        ]

    def _row(
        self, prompt: Prompt, tokens: list[int], steps: dict[str, "torch.Tensor"], index: int
    ) -> dict[str, Any]:
        stops = [
            position for position, token in enumerate(tokens) if token in self.prompts.stop_ids
        ]
        length = stops[0] + 1 if stops else len(tokens)
        tokens = tokens[:length]
        row = {
            "id": prompt.id,
            "sample": prompt.sample,
            "prompt_tokens": len(prompt.token_ids),
            "text": self.prompts.decode(tokens),
            "token_ids": tokens,
            "finish_reason": "stop" if stops else "length",
            "error": None,
        }
        return row | {name: values[index, :length].tolist() for name, values in steps.items()}


class StepRecorder:
    """A logits processor that changes nothing and notes what each step knew, before any temperature
    or top-p.
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

    def finish(self, generated: "torch.Tensor") -> dict[str, "torch.Tensor"]:
        """Log-probabilities (B, T), entropies in nats (B, T) and top log-probabilities (B, T, k) of
        `generated`.
        """
        import torch

        if self._last is None:
            raise RuntimeError("generation took no step")
        self._chosen.append(self._last.cpu().gather(1, generated[:, -1:]).squeeze(1))
        return {
            "logprobs": torch.stack([step.cpu() for step in self._chosen], 1),
            "entropies": torch.stack([step.cpu() for step in self._entropies], 1),
            "top_logprobs": torch.stack([step.cpu() for step in self._top_logprobs], 1),
        }
