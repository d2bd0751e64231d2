"""A stage process: a part of a model, its KV cache, and the loop that answers requests with the rest of its group."""
