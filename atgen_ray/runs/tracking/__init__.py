"""What trackers of experiments are told of a run: MLflow, and Weights & Biases."""
