"""Judges beside moto: botocore's models, microburst and ministack."""
