"""HTTP service: model replicas, the query endpoint, the runs API, the web pages and access control,
as one Ray Serve application.
"""
