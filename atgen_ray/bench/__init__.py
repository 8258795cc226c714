"""Benchmarks: strategies x seeds x orders x tasks x models as runs on one cluster, and what follows
from them.
"""
