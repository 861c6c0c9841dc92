"""Help texts of flags that several tasks share."""

SELECTOR = "which instances: ids, addresses, Name tags (globs allowed), key=value, vpc-/subnet-/sg- ids"
YES = "do not ask"
DIRECT = "send to each instance from this machine; else instances pass large files on to each other"
S3 = "s3://bucket/prefix: send it there once, and have every instance fetch it (instances need aws)"
ANY_OWNER = "allow instances, AMIs and VPCs whose owner tag names another user"
JSON = "print JSON, with more fields than the table"
