# The address that every real client of S3 finds in a shell with the stub, for any PATH: a port of this machine where
# nothing listens, and a path that tells why. The address is well-formed, since some clients skip a malformed one and
# use the real S3. It is https, so that a proxy is asked for a connection and sees no request. Clients of other services
# are not affected.
# Read as data, a NAME=value on a line, by stub_s3.sh and hardway/s3/stub_sessions.py.
# shellcheck shell=sh disable=SC2034

# a step finds a bucket for its objects, as on an instance with a store; pmap names the instance in it
HARDWAY_STORE=s3://hardway_stub

# the environment counts, even if the profile says true
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
# fsspec's s3fs, and libraries that use it
FSSPEC_S3_ENDPOINT_URL=https://127.0.0.1:9/S3-is-stubbed-in-this-shell
