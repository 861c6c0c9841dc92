# What every real client of S3 finds in a shell with the stub, whatever PATH says: an address that can't be, by a name that
# tells why. No name under .invalid is ever one, and with underscores it is none at all: AWS's command line and boto3 say
# so at once, where a port that refuses would be tried again for ten seconds. https, so that a proxy is asked for a
# connection and is shown no request. Clients of other services are not concerned.
# Read as data, a NAME=value on a line, by stub_s3.sh and hardway/s3stub.py.
# shellcheck shell=sh disable=SC2034

# the environment counts, and not a true in the profile
AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false

# AWS's own command line and libraries; it comes before AWS_ENDPOINT_URL and before what a profile says
AWS_ENDPOINT_URL_S3=https://S3_is_stubbed_in_this_shell.invalid:9
AWS_ENDPOINT_URL_S3_CONTROL=https://S3_is_stubbed_in_this_shell.invalid:9
AWS_ENDPOINT_URL_S3OUTPOSTS=https://S3_is_stubbed_in_this_shell.invalid:9
AWS_ENDPOINT_URL_S3TABLES=https://S3_is_stubbed_in_this_shell.invalid:9
AWS_ENDPOINT_URL_S3VECTORS=https://S3_is_stubbed_in_this_shell.invalid:9

# Terraform and others; GDAL
AWS_S3_ENDPOINT=https://S3_is_stubbed_in_this_shell.invalid:9
# s5cmd
S3_ENDPOINT_URL=https://S3_is_stubbed_in_this_shell.invalid:9
# TensorFlow
S3_ENDPOINT=https://S3_is_stubbed_in_this_shell.invalid:9
# rclone
RCLONE_S3_ENDPOINT=https://S3_is_stubbed_in_this_shell.invalid:9
# fsspec's s3fs, and what stands on it
FSSPEC_S3_ENDPOINT_URL=https://S3_is_stubbed_in_this_shell.invalid:9
