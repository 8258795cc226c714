"""What an SGLang server is started with: its arguments and its environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atgen_ray.config import ModelConfig
from atgen_ray.core.checkpoints import resolve_checkpoint
from atgen_ray.engines import sglang_launcher
from atgen_ray.engines.sglang_weights import BASE
from atgen_ray.ray_runtime.hardware import count_threads, worker_environment

# Without a limit SGLang takes most of a machine's memory for its cache of keys and values.
CPU_CACHE_TOKENS = 16_384
# Share of a GPU's memory; an engine on a part of a GPU takes that part of it.
GPU_MEMORY = 0.85
# SGLang counts a few tokens of its own into the length of a request.
SPARE_TOKENS = 8
LORA_SLOTS = 4  # adapters in one batch, and one of them for the base model


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with.

    Attributes:
        dtype: "float32", "bfloat16" or "float16".
        slots: requests that it works on at once, on a CPU.
        lora_rank: largest rank of an adapter beside the base model; 0: it takes none.
        cuda: whether it computes on a GPU.
        gpus: that Ray reserves for it.
        workers: servers that share the cores of a node.
        threads: compute threads on a CPU; None: the cores of the node over `workers`.
        options: further arguments of the server, by the name of their flag.
    """

    model: ModelConfig
    dtype: str
    slots: int = 64
    lora_rank: int = 0
    cuda: bool = False
    gpus: float = 0.0
    workers: int = 1
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def list_arguments(self, port: int, key: str) -> list[str]:
        """Return the arguments of a server on `port` that answers to `key`."""
        model = self.model
        context = count_context(model) + SPARE_TOKENS
        settings: dict[str, Any] = {
            "model-path": resolve_checkpoint(model.id),
            "revision": model.revision,
            "trust-remote-code": model.trust_remote_code,
            "load-format": "safetensors",
            "dtype": self.dtype,
            "context-length": context,
            "weight-version": BASE.loaded,
            "host": "127.0.0.1",
            "port": port,
            "api-key": key,
            "log-level": "warning",
            "incremental-streaming-output": True,
            # A small model may put white space between two values until it has no tokens left.
            "constrained-json-disable-any-whitespace": True,
        }
        if self.lora_rank:
            settings |= {
                "enable-lora": True,
                "max-lora-rank": self.lora_rank,
                "lora-target-modules": "all",
                "max-loras-per-batch": LORA_SLOTS,
            }
        if self.cuda and 0 < self.gpus < 1:
            settings["mem-fraction-static"] = round(GPU_MEMORY * self.gpus, 2)
        if self.cuda and self.gpus > 1:
            settings["tp-size"] = int(self.gpus)
        if not self.cuda:
            settings |= {
                "device": "cpu",
                "attention-backend": "torch_native",
                "disable-overlap-schedule": True,
                # Processes that wait would take the cores from the one that computes.
                "sleep-on-idle": True,
                "max-running-requests": self.slots,
                "max-total-tokens": max(CPU_CACHE_TOKENS, 2 * context),
            }
        if self.lora_rank and not self.cuda:
            settings["lora-backend"] = "torch_native"
        settings |= {name.replace("_", "-"): value for name, value in self.options.items()}
        return _list_flags(settings)

    def build_environment(self, own_python: bool) -> dict[str, str]:
        """Return the environment of the server; `own_python`: its Python is another than ours."""
        environment = dict(os.environ)
        if own_python:
            for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
                environment.pop(name, None)
        environment |= {
            "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",
            # The spare tokens may exceed the positions of the model; no request is that long.
            "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",
            "DO_NOT_TRACK": "1",
        }
        if not self.cuda:
            environment |= {sglang_launcher.CPU: "1"} | worker_environment(
                count_threads(self.workers, self.threads)
            )
        return environment


def count_context(model: ModelConfig) -> int:
    """Return the tokens of the longest prompt and answer together."""
    return model.max_prompt_tokens + model.max_new_tokens


def _list_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as flags: true is a flag alone; false and null are left out."""
    flags: list[str] = []
    for name, value in settings.items():
        if value is None or value is False:
            continue
        flags.append(f"--{name}")
        if isinstance(value, dict):
            flags.append(json.dumps(value))
        elif isinstance(value, list):
            flags += map(str, value)
        elif value is not True:
            flags.append(str(value))
    return flags
