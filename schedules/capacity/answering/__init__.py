"""The answer of a search in words and settings: which cluster, what binds, and what else would be."""
