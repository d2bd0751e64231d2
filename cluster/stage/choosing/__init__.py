"""Choosing the tokens of a whole batch where its logits are."""
