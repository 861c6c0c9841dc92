"""The local cloud: a laptop, the host, stands in for AWS, by real servers on loopback addresses.

Outside of the daemon, `daemon` starts, finds and ends it; `running` is its record, by which it is asked; `faults` has
it cause faults. Inside, `daemon_process` is its life. `server` answers HTTP behind the `gate`, for which `signing`
checks requests. `api` is EC2 as moto keeps it; `cloud` carries out on `machines`, each at one of the `addresses`, what
EC2 is asked for; `fault_injector` carries out faults. `beneath` opens files in the directories of machines. Production
code meets all this only as an endpoint and addresses.
"""
