"""The local cloud: a laptop stands in for AWS, by real servers on loopback addresses.

`daemon` is its life cycle, `cloud` EC2 and its neighbours (moto), `host` an instance's SSH server, `files` what SFTP
and scp see of an instance, `sandbox` its processes and directories, `spawner` the process that starts those.
Production code meets all this only as an endpoint URL and addresses.
"""
