"""What front ends remember in SQL: what came, how cold starts went, what was moved."""
