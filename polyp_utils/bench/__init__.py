"""How fast it is, against the plain loop that people write and against the machine itself."""
