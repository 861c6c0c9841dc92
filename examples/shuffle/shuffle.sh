#!/bin/bash
# Three questions to made-up taxi trips, with a shuffle whose data stays on the instances: `shuffle.sh [--seed N]
# [--parts N] [--rows N]`. The whole job on a cluster, on this machine. Without local.up and local.down it is the same on
# AWS, and costs money. Prints the answers, partition by partition: all trips by their fares, the ten longest trips, and
# the trips and cents of each zone.
set -euo pipefail
cd "$(dirname "$0")"
seed=1 parts=4 rows=10000
while [ $# -gt 0 ]; do
    case $1 in
        --seed | --parts | --rows) declare "${1#--}=$2" && shift 2 ;;
        *) echo "usage: shuffle.sh [--seed N] [--parts N] [--rows N]" >&2 && exit 2 ;;
    esac
done
eval "$(inv local.up)"
work=$(mktemp -d)
trap 'inv local.down; rm -rf "$work"' EXIT

ids=$(inv ec2.new --name shuffle --num "${NUM:-2}")
inv cluster.store "$ids" --yes >&2
seq "$parts" | inv mapreduce.pmap "$ids" - "bash step1.sh $seed $rows" --files step1.sh,trips.py >"$work/pieces"
inv cluster.ls >&2
inv mapreduce.group "@$work/pieces" >"$work/partitions"
inv mapreduce.pmap "$ids" "@$work/partitions" 'bash step2.sh' --files step2.sh
