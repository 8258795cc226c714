"""Fine-tuning an adapter under Ray Train."""

from atgen_ray.training.train import TrainingExample, TrainingResult, train_adapter

__all__ = ["TrainingExample", "TrainingResult", "train_adapter"]
