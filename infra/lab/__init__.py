"""A cluster of network namespaces on one machine: every host behind a network card of a set rate. For root."""
