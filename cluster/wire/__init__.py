"""What nodes, stages and the front end say to each other, and how it travels."""
