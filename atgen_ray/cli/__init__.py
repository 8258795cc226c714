"""The command line: each command reads its options, calls one function of a room below and prints
what it gives.

`app` holds the commands, `runs`, `config` and `service` those that come in groups. `main` is the
console script.
"""

from atgen_ray.cli.app import main

__all__ = ["main"]
