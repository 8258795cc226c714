"""Ray cluster that a command works on: sessions, workers, devices and the placement of work."""
