"""The Ray cluster that a command works on: sessions, workers, devices and where work is placed."""
