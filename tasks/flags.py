"""Help texts of flags that several tasks share."""

SELECTOR = "which instances: ids, addresses, Name tags (globs allowed), key=value, vpc-/subnet-/sg- ids"
REGION = "AWS region; else the environment's, invoke.yaml's, the profile's"
YES = "do not ask"
DIRECT = "send to each from here, however many there are; else instances pass on what is large"
SEND_VIA = (
    "s3://bucket/prefix: send it up there once, and have every instance fetch it (needs aws there); "
    "ssm: connect through AWS Systems Manager"
)
CONNECTIONS = "instances to be connected to at the same time"
ANY_OWNER = "also those whose owner tag names another user"
PRIVATE_IP = "connect to the private addresses"
VIA = "ssm: connect through AWS Systems Manager, by the AWS CLI and its session-manager-plugin"
JSON = "as JSON, with more than the table has"
