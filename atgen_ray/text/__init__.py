"""Comparison of texts: words, overlap, normalised answers, and support of one text by another."""
