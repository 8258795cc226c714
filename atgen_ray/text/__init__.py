"""Comparing texts: words, overlap, sentences and whether one supports another."""
