"""Fine-tuning of a model or an adapter, under Ray Train or in a single task."""

from atgen_ray.training.train import TrainingExample, TrainingResult, train_adapter

__all__ = ["TrainingExample", "TrainingResult", "train_adapter"]
