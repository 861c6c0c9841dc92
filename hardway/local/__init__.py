"""The local cloud: a laptop stands in for AWS, by real servers on loopback addresses.

`daemon` is its life cycle, `cloud` EC2 and its neighbours (moto's; `offerings` a table of it), `host` an instance's
SSH server, `files` what SFTP and scp see of an instance, `metadata` what it may learn about itself, `sandbox` its
processes and directories, `shims` commands it finds, `spawner` the process that starts the others; `faults` is what may
go wrong, on demand (`kinds` their names). Production code meets all this only as an endpoint and addresses.
"""
