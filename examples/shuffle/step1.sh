#!/bin/bash
# Map: `step1.sh SEED ROWS`, with the number of a part on stdin, makes this part of the trips and shuffles it for three
# questions. The pieces that step2.sh reads stay on this instance, in the store. Prints, for each piece, the partition, a
# tab and the URL. Idempotent: run twice, it writes the same.
#
#   zone-0, zone-1   trips and cents by the zone where they began; a zone is in one of the two
#   top              the ten longest trips
#   sort-0 ...       all trips in the order of their fares; each partition has a range of them
set -euo pipefail
export LC_ALL=C

read -r number
pieces=$(mktemp -d)
trap 'rm -rf "$pieces"' EXIT

python3 trips.py "$1" "$number" "$2" >"$pieces/trips"
mkdir "$pieces/out"
awk -F, -v out="$pieces/out" '
    { trips[$2]++; cents[$2] += $6 }
    END { for (zone in trips) print zone "," trips[zone] "," cents[zone] >(out "/zone-" zone % 2) }
' "$pieces/trips"
sort -t, -k 5,5nr -k 1 "$pieces/trips" | sed -n 1,10p >"$pieces/out/top"
sort -t, -k 6,6n -k 1 "$pieces/trips" |
    awk -F, -v out="$pieces/out" '{ print >(out "/sort-" ($6 < 600 ? 0 : $6 < 1000 ? 1 : 2)) }'

# awk writes zones in any order; the same bytes are written each time
for piece in "$pieces"/out/zone-*; do sort -o "$piece" "$piece"; done

for piece in "$pieces"/out/*; do
    url=$HARDWAY_STORE/${piece##*/}/$number
    aws s3 cp --quiet "$piece" "$url"
    printf '%s\t%s\n' "${piece##*/}" "$url"
done
