"""Who asked for what, and when: recorded or made up, as a value that a brain is tried on."""
