"""A node: its agent, the tiers and rates behind it, and the processes that it keeps for stages."""
