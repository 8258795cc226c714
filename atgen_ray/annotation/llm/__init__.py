"""Language models as annotators: prompts, dispatch of requests, billing, checks of answers, and
voting.
"""
