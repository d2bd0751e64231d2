"""What a capacity plan is asked for in words, the sweep that answers it, and what is left of it on disk."""
