"""tapml_nb: bring a machine-learning model up on a new device, one operator at a time."""
