"""Which layers of a cold model go to which nodes."""
