"""Sections of the configuration for annotators, by who labels."""
