"""pmap: map a command over arguments, on instances, with results in argument order.

`schedule` decides (pure), `driver` acts on the decisions over SSH, `agent` runs on each instance.
"""
