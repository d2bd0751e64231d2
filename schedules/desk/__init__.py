"""The requests of all models: who waits, who runs where, and what becomes of them when that changes."""
