"""Array kernels under the strategies. They know no ids, no tables and no Ray.

"Unit vectors, quantised" means vectors of length 1 (or 0) whose coordinates are multiples of 2^-24;
`similarity.py` says why.
"""
