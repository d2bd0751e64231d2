"""What was forecast beside what came, and what prewarming saved."""
