"""What is expected to be asked for, and a plan for it, of the cluster that runs; it knows no Prefect."""
