"""Prices, costs of instances, and EC2's offers."""
