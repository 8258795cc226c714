"""Models and prompts: from a model id and a prompt configuration to a loaded model, its tokenizer
and token ids.
"""
