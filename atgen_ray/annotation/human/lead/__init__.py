"""What a lead sees and does: disputes, the list of tasks, reviews, guidelines, who did what."""
