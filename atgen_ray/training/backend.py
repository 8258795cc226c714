"""Backend of torch.distributed, chosen by the devices that workers really have: a GPU in Ray's
resources need not be a CUDA device.
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
    """Make accelerate compute on the CPU, although Ray Train told it to use the GPU that Ray
    assigned to this worker.
    """
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


@dataclass
class DeviceConfig(TorchConfig):
    """Ray Train's configuration of torch.distributed with `DeviceBackend`."""

    @property
    def backend_cls(self) -> type[DeviceBackend]:
        return DeviceBackend
