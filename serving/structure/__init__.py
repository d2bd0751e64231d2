"""Answers that keep to a structure: what may be written as a grammar, and calls of tools read out of what was written."""
