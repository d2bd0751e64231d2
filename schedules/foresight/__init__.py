"""What will be asked for, before it is."""
