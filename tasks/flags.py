"""Help texts of flags that several tasks share."""

SELECTOR = "which instances: ids, addresses, Name tags (globs allowed), key=value, vpc-/subnet-/sg- ids"
REGION = "AWS region; else the environment's, invoke.yaml's, the profile's"
YES = "do not ask"
CONNECTIONS = "instances to be connected to at the same time"
