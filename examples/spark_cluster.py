"""A Spark cluster from nothing: python examples/spark_cluster.py NAME NUM. `inv ec2.rm NAME` ends it."""

import sys

from invoke import Context

from hardway.errors import HardwayError
from hardway.tasks import cluster, ec2

JAVA = "command -v java || (sudo apt-get update -q && sudo apt-get install -qy default-jre-headless)"
# Every instance asks the master how many workers live.
LOOK = """python3 -c 'import json, urllib.request
print(json.load(urllib.request.urlopen("http://{master}:8080/json/"))["aliveworkers"], "workers live")' >&2"""


def main(name: str, num: str) -> None:
    c = Context()
    ids = ec2.new(c, name=name, num=num)
    master, *_ = ec2.ip(c, ids, private=True)
    ec2.tag(c, master, ["role=master"], yes=True)

    ec2.ssh(c, ids, yes=True, command=f"({JAVA}) >&2")
    address = cluster.spark(c, ids, yes=True, install=True)
    ec2.ssh(c, ids, yes=True, command=LOOK.format(master=master))

    print(address)
    print(f"http://{master}:8080")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except HardwayError as error:
        sys.exit(str(error))
