"""What a finished sweep shows: curves, comparisons with intervals, tables and plots."""
