"""The bodies of requests, as Pydantic models: what a caller may send, with its bounds."""
