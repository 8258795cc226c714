"""One run from its configuration to its report: the round loop, who drives it, and looking at it
from outside.
"""
