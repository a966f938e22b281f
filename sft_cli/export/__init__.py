"""Export a run: as a merged model, an adapter, a GGUF file, for Ollama, or to the hub."""
