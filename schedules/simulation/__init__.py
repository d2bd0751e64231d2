"""A brain played against a cluster under virtual time, and what comes of it."""
