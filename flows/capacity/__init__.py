"""A capacity plan as a page and a picture that stand alone: made of the plan alone, without a clock or the network."""
