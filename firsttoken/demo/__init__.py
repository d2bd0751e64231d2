"""The demo: what the platform is for, in a minute, on a cluster that lives just as long."""
