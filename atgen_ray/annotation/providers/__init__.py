"""Clients of the services that serve annotating models."""
