"""Metrics; those that share a method share a file."""
