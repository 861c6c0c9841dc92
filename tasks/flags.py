"""Help texts of flags that several tasks share."""

SELECTOR = "which instances: ids, addresses, Name tags (globs allowed), key=value, vpc-/subnet-/sg- ids"
YES = "do not ask"
DIRECT = "send to each from here, however many there are; else instances pass on what is large"
S3 = "s3://bucket/prefix: send it up there once, and have every instance fetch it (needs aws there)"
ANY_OWNER = "also those whose owner tag names another user"
JSON = "as JSON, with more than the table has"
