"""Bodies of requests and responses as Pydantic models: what a caller may send, with its bounds."""
