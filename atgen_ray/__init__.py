"""Active learning for text generation, as a service on Ray."""

__version__ = "0.1.0"
