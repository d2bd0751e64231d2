"""How a stage comes into its group, and what it says to its neighbours there."""
