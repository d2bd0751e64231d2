"""Which cluster is the cheapest that serves a trace as it should be served: by playing it on those that could."""
