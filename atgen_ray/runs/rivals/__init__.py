"""Rivals of the tuned model: what each is given. `steps/rivals.py` runs them."""
