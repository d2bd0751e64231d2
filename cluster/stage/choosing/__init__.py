"""Choosing the next token: of one request by its sampler, of a whole batch where its logits are."""
