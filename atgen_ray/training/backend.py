"""The backend of torch.distributed, chosen by what the workers have: a GPU in Ray's books need not
be one of CUDA's.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray.train.torch import TorchConfig

TorchBackend: Any = TorchConfig().backend_cls


class DeviceBackend(TorchBackend):
    """Sets up torch.distributed with NCCL where every worker has CUDA, else with gloo."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        cuda = all(worker_group.execute(torch.cuda.is_available))
        super().on_start(worker_group, replace(backend_config, backend="nccl" if cuda else "gloo"))
        if not cuda:
            worker_group.execute(compute_on_cpu)


def compute_on_cpu() -> None:
    """Undoes what Ray Train told accelerate: to compute on the GPU that Ray's books give to this
    worker.
    """
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


@dataclass
class DeviceConfig(TorchConfig):
    """Ray Train's configuration of torch.distributed, whose backend the workers decide."""

    @property
    def backend_cls(self) -> type[DeviceBackend]:
        return DeviceBackend
