"""Ways to run a cluster, to be compared: ours, those of two papers, and plainer ones, all behind the brain's interface."""
