"""Labels from language models: what is asked, sent, billed, checked and voted on."""
