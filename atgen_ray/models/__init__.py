"""From a model's id and a prompt configuration to a loaded model, its tokenizer and its prompts."""
