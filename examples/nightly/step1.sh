#!/bin/bash
# Reads a log in the Common Log Format, whose S3 URL is on stdin, and prints each status and how often it is there.
set -euo pipefail

read -r url
aws s3 cp --quiet "$url" - | awk '{ count[$(NF - 1)]++ } END { for (status in count) print status "\t" count[status] }'
