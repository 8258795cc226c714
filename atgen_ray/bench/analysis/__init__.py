"""Analysis of a finished sweep: curves, comparisons with intervals, tables and plots."""
