"""Command line: each command reads its options, calls one function of a lower package and prints
its result.

`app` holds the single commands, `runs`, `config` and `service` the groups. `main` is the console
script.
"""

from atgen_ray.cli.app import main

__all__ = ["main"]
