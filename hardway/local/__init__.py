"""The local cloud: a laptop, the host, stands in for AWS, by real servers on loopback addresses.

Outside of the daemon, `daemon` starts, finds and ends it; `running` is its record, and sends it requests; `faults` has
it cause faults. Inside, `daemon_process` runs it. `server` answers HTTP behind the `gate`, with `signing` to check
requests. `api` is EC2 as moto keeps it. `cloud` carries out EC2's calls on `machines`, each at one of the `addresses`.
`fault_injector` carries out faults. `beneath` opens files in the directories of machines. Production code meets all
this only as an endpoint and addresses.
"""
