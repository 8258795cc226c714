"""The services that annotating models are reached through."""
