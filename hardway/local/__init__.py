"""The local cloud: a laptop stands in for AWS, by real servers on loopback addresses.

`daemon` is its life cycle, `cloud` EC2 and its neighbours (moto's; `offerings` a table of it), `gate` its door, which
asks `signing` who comes; `host` an instance's SSH server, `sessions` what of the S3 stub an instance may be shown,
`files` what SFTP and scp see of it, `beneath` how its files are opened, `metadata` what it may learn about itself,
`sandbox` its processes and directories, `shims` commands it finds, `spawner` the process that starts the others;
`faults` is what may go wrong, on demand (`fault_kinds` their names). Production code meets all this only as an
endpoint and addresses.
"""
