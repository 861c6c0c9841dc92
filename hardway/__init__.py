"""Script EC2: launch instances, run on them, copy to and from them, map commands over them.

A library that works without Invoke's command line; the tasks a person types are in `hardway.tasks`.
"""
