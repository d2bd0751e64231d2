"""How a step is computed fast: by how many threads on a CPU; captured, and with fewer launches, on a GPU."""
