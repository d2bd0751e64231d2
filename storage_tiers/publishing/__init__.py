"""From a model as others store it to a checkpoint in the store, and the upkeep of what is there."""
