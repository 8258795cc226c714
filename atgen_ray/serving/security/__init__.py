"""Who may call, how much, and what a configuration from outside may name."""
