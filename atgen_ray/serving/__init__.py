"""The service: model replicas, the query endpoint, the runs API and who may use them, as one Ray
Serve application.
"""
