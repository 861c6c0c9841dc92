#!/bin/bash
# Which words are the most frequent in Python's standard library? The whole job on a cluster, on this machine.
# Without the first two commands it is the same on AWS, and costs money.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
ended() { set +v; inv local.down; clear-s3-stubbed >&2; rm -rf "$work"; }

sed -n '/^# 1/,/^$/p' examples/wordcount/demo.sh >&2
# 1. A cloud on this machine, and an `aws s3` that keeps its objects on the local disk.
eval "$(inv local.up)"
. "$(inv s3.stub)"
trap ended EXIT

# From here on the shell shows each command before it runs it.
set -v

# 2. The input: one object for each top-level module or package of the standard library.
library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
for module in "$library"/*.py; do
    aws s3 cp --quiet "$module" "s3://demo/input/$(basename "$module" .py)"
done
for package in "$library"/*/__init__.py; do
    package=$(dirname "$package")
    find "$package" -name '*.py' -exec cat {} + | aws s3 cp --quiet - "s3://demo/input/$(basename "$package")"
done
aws s3 ls s3://demo/input/ | awk '{ print "s3://demo/input/" $NF }' >"$work/inputs.txt"
wc -l <"$work/inputs.txt"

# 3. A cluster, a command on it, and the scripts to it.
ids=$(inv ec2.new --name wordcount --num "${NUM:-4}")
inv ec2.ssh "$ids" --yes --command 'echo "up since $(uptime -s 2>/dev/null || date), $(nproc) CPUs"'
inv ec2.scp 'examples/wordcount/step*.sh' : "$ids" --yes

# 4. Map: count the words of each object. It prints the parts and the URLs of their counts.
inv mapreduce.pmap "$ids" "@$work/inputs.txt" 'bash step1.sh' >"$work/counts.txt"

# 5. Group: one line for each part. Reduce: merge each part.
inv mapreduce.group "@$work/counts.txt" >"$work/parts.txt"
merged=$(inv mapreduce.pmap "$ids" "@$work/parts.txt" 'bash step2.sh')

# 6. The cluster is thrown away; the result is in S3.
inv ec2.rm "$ids" --yes
for url in $merged; do aws s3 cp --quiet "$url" -; done | LC_ALL=C sort -k 1,1nr -k 2 | sed -n 1,10p
