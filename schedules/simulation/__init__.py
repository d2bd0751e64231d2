"""A cluster under virtual time, for a brain to be tried on."""
