"""The replicas of all models: wanted, started, resting, ended."""
