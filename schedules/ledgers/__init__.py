"""Accounts of what the cluster has been promised."""
