"""Everything that lives on a node, and the one client through which serving and flows reach nodes."""
