"""What one takes home from a run: its adapter, the merged model, a GGUF file, and cards."""
