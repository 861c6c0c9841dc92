#!/bin/bash
# Reduce: stdin has a partition and the URLs of its pieces, tabs between, each on the instance that made it. Prints the
# partition's part of the answer.
set -euo pipefail
export LC_ALL=C

IFS=$'\t' read -ra urls
partition=${urls[0]}
pieces=$(mktemp -d)
trap 'rm -rf "$pieces"' EXIT
for url in "${urls[@]:1}"; do
    aws s3 cp --quiet "$url" "$pieces/"
done

case $partition in
    zone-*)
        awk -F, '
            { trips[$1] += $2; cents[$1] += $3 }
            END { for (zone in trips) print zone "," trips[zone] "," cents[zone] }
        ' "$pieces"/* | sort -t, -k 1,1n
        ;;
    top) sort -t, -k 5,5nr -k 1 "$pieces"/* | sed -n 1,10p ;;
    sort-*) sort -m -t, -k 6,6n -k 1 "$pieces"/* ;;
esac
