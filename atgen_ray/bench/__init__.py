"""Benchmarks: suites of strategies x seeds x orders x tasks x models, run on one cluster, and the
analysis of their results.
"""
