"""Labels that come from files and tools of others, and go to them."""
