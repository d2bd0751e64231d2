"""A cluster under virtual time: nodes, wires, groups and what befalls them; it decides nothing."""
