"""Help texts of flags that several tasks share."""

SELECTOR = "which instances: ids, addresses, Name tags (globs allowed), key=value, vpc-/subnet-/sg- ids"
REGION = "AWS region; else the environment's, invoke.yaml's, the profile's"
YES = "do not ask"
DIRECT = "send to each from here, however many there are; else instances pass on what is large"
VIA = "s3://bucket/prefix: send it up there once, and have every instance fetch it (needs aws there)"
CONNECTIONS = "instances to be connected to at the same time"
JSON = "all there is to know, as JSON"
