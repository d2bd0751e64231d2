"""How the KV cache of a request gets from the stages of one group to those of another."""
