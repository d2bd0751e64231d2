"""Models as others store them, whatever the form and wherever the folder, behind one interface."""
