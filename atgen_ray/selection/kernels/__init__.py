"""Plain-array kernels under the strategies: no ids, no tables, no Ray."""
