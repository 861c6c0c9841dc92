#!/bin/bash
# A Cassandra cluster from nothing: examples/cassandra_cluster.sh NAME NUM. `inv ec2.rm NAME` ends it.
# The image (ec2.ami in invoke.yaml) has Cassandra installed as its Debian package does it, and not started.
set -euo pipefail
name=${1:-cassandra} num=${2:-3}
yaml=${CASSANDRA_YAML:-/etc/cassandra/cassandra.yaml}
start=${CASSANDRA_START:-sudo service cassandra start} nodetool=${NODETOOL:-nodetool}

ids=$(inv ec2.new --name "$name" --num "$num")
addresses=$(inv ec2.ip "$ids" --private)
seeds=$(head -n 2 <<<"$addresses" | paste -sd ,)
# They talk to each other on port 7000.
for address in $addresses; do
  inv ec2.authorize "${INVOKE_EC2_SG:-hardway-ssh}" --port 7000 --source "$address"
done

# Each takes the address that it was connected to for its own.
inv ec2.ssh "$ids" --yes --command - >&2 <<EOF
own=\$(echo "\$SSH_CONNECTION" | cut -d ' ' -f 3)
sudo sed -i "s/^cluster_name:.*/cluster_name: '$name'/; s/^\( *- seeds:\).*/\1 \"$seeds\"/
  s/^listen_address:.*/listen_address: \$own/; s/^rpc_address:.*/rpc_address: \$own/" $yaml
EOF

# The seeds first, and one after the other, as Cassandra wants it: the next when this one sees all those before it.
see() { echo "for i in \$(seq 60); do [ \$($nodetool status | grep -c ^UN) -eq $1 ] && exit; sleep 2; done; exit 1"; }
count=0
for address in $addresses; do
  count=$((count + 1))
  inv ec2.ssh "$address" --yes --command "$start && $(see $count)" >&2
done
inv ec2.ssh "$ids" --yes --command "$(see "$num")" >&2

echo "$addresses"
