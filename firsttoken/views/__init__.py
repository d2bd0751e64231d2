"""What a person sees at the terminal, by what it is of."""
