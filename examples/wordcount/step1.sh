#!/bin/bash
# Counts the words in one object, whose S3 URL is on stdin, and writes the counts back to S3 in three parts: a word's
# first letter decides on its part, so that each part can be merged without the others. Prints, for each
# part, its number, a tab and the URL. Idempotent: run twice, it writes the same.
set -euo pipefail
export LC_ALL=C

read -r url
bucket=$(cut -d / -f 1-3 <<<"$url")
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

aws s3 cp --quiet "$url" - |
    { grep -aoE '[A-Za-z_][A-Za-z0-9_]*' || true; } |
    sort |
    uniq -c |
    awk -v parts="$parts" '{
        part = index("abcdefghijklmnopqrstuvwxyz", tolower(substr($2, 1, 1))) % 3
        print $1, $2 > (parts "/" part)
    }'

for part in "$parts"/*; do
    [ -e "$part" ] || continue
    part=${part##*/}
    result=$bucket/counts/$part/${url##*/}
    aws s3 cp --quiet "$parts/$part" "$result"
    printf '%s\t%s\n' "$part" "$result"
done
