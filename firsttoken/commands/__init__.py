"""The commands of the command line, by what they deal with."""
