"""The replicas behind Serve: engines, their adapters, and the queue in front of them."""
