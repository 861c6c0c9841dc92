#!/bin/bash
# Merges counts: stdin holds a part and the URLs of all its objects, tabs between. Writes their sum to S3, the most frequent first, and
# prints its URL.
set -euo pipefail
export LC_ALL=C

IFS=$'\t' read -ra urls
part=${urls[0]}
urls=("${urls[@]:1}")
result=$(cut -d / -f 1-3 <<<"${urls[0]}")/merged/$part

for url in "${urls[@]}"; do
    aws s3 cp --quiet "$url" -
done |
    awk '{ count[$2] += $1 } END { for (word in count) print count[word], word }' |
    sort -k 1,1nr -k 2 |
    aws s3 cp --quiet - "$result"
echo "$result"
