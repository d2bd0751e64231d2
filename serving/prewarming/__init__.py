"""What is prepared for before it is asked for, as far as a front end has a part in it."""
