"""What clients ask for: read strictly, completed with what the model says, and bounded by what fits."""
