"""Instances as a cluster of Spark or Dask."""
