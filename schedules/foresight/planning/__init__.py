"""The parts of a plan of prewarming, each found by itself: who is wanted, what a start costs, who gets which room."""
