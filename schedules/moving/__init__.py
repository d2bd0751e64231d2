"""Requests and replicas that go on elsewhere: when that pays, where to, and in what steps."""
