"""This machine: files and directories of ours, standard streams, signals."""
