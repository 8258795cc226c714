"""People as annotators: the queue of tasks, agreement between answers, adjudication, and
notifications.
"""
