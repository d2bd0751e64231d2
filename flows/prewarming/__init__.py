"""The flows that bring near what will be called, and drop what will not be."""
