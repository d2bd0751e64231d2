"""Prompts become tokens: with what came with a model, in a process of the model's own."""
