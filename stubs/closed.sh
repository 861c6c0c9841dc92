# What every real client of S3 finds in a shell with the stub, whatever PATH says: a port of this machine where nothing
# listens, and a path that tells why. A good address of the usual kind: one that is malformed some clients pass over, to
# the real S3. https, so that a proxy is asked for a connection and is shown no request. Clients of other services are not
# concerned.
# Read as data, a NAME=value on a line, by stub_s3.sh and hardway/stub_sessions.py.
# shellcheck shell=sh disable=SC2034

# the environment counts, and not a true in the profile
AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false

# AWS's own command line and libraries; it comes before AWS_ENDPOINT_URL and before what a profile says
AWS_ENDPOINT_URL_S3=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
AWS_ENDPOINT_URL_S3_CONTROL=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
AWS_ENDPOINT_URL_S3OUTPOSTS=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
AWS_ENDPOINT_URL_S3TABLES=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
AWS_ENDPOINT_URL_S3VECTORS=https://127.0.0.1:9/S3-is-stubbed-in-this-shell

# Terraform and others; GDAL
AWS_S3_ENDPOINT=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
# s5cmd
S3_ENDPOINT_URL=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
# TensorFlow
S3_ENDPOINT=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
# rclone
RCLONE_S3_ENDPOINT=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
# fsspec's s3fs, and what stands on it
FSSPEC_S3_ENDPOINT_URL=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
