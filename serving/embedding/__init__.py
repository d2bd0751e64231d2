"""Vectors of texts: what is asked for, how it is prepared, and how it is answered."""
