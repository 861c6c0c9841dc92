"""Objects in S3, and the sessions of its stub."""
