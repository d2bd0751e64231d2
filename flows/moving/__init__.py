"""Flows of moves: requests and replicas that go on elsewhere, step by step, with the front end."""
