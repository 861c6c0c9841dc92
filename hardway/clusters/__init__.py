"""Instances as a cluster of an engine that exists."""
