"""Which token of a step attends to what: the KV cache, over slabs and over pages, and what encodes positions."""
