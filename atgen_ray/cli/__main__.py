"""`python -m atgen_ray.cli` is the command `atgen-ray`."""

from atgen_ray.cli import main

main()
