"""Deletion on request: examples, labels, people, uploads and runs, everywhere they lie.

An example that is deleted leaves a tombstone: its id keeps its place, and it is never selected,
labelled, trained on or shown again. Money that was paid stays in the ledger. A certificate says
what was removed where, and what cannot be.
"""

from atgen_ray.runs.deletion.certificate import Certificate
from atgen_ray.runs.deletion.command import Kind, Target, delete

__all__ = ["Certificate", "Kind", "Target", "delete"]
