"""A stage's part of a model: its skeleton, the gates before what has not come yet, the forward pass."""
