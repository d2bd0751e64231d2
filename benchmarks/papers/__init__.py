"""What two papers measured, on what, and the same set-ups as the simulator takes them."""
