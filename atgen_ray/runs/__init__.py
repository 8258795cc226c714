"""One run from its configuration to its report: round loop, controller and driver, estimates, and
queries from outside.
"""
