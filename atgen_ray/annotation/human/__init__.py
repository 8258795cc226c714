"""People who label: their queue of tasks, how their answers agree, what an admin decides, how they
hear of tasks.
"""
