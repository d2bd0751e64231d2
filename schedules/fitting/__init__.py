"""The world of the simulator, fitted to what happened on a cluster, and how good it is."""
