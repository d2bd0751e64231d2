"""Moves carried out: requests that go on at another group while they are answered, and operators who ask for it."""
