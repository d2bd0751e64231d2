"""Decides and does nothing else: no I/O, no clock, no chance of its own. Time comes in as `now_s`."""
