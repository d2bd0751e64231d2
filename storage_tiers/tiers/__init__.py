"""Where the units of a checkpoint lie on their way to a device: store, peers, ssd, dram."""
