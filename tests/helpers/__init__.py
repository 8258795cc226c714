"""What tests and benchmarks have in common: projects, servers, clusters and stand-ins of paid services."""
