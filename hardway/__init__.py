"""Script EC2: launch instances, run on them, copy to and from them, map commands over them.

The library works without Invoke's command line; the tasks that a person types are in `hardway.tasks`.
"""
