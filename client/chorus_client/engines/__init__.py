"""Ways to run models on this PC, behind one protocol."""
