"""This machine: its paths, standard streams, signals and threads."""
