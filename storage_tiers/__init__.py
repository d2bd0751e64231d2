"""Bytes, tiers and checkpoints. Knows nothing of nodes, requests or what a model computes."""
