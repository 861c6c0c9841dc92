"""Judges beside moto: botocore's models, and microburst."""
