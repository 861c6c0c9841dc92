#!/bin/bash -p
# The fast aws of hardway: the calls of S3 that a step of a job needs, by bash, curl and coreutils, without the CLI's start.
# __init__.py makes one file of this one, of those next to it, and of the stub's that it shares. The code after the call of
# main is not parsed before a command needs it: to read the whole takes as long as to start curl.
#
# It does cp, mv and rm of one object, ls, presign and head-object. The rest is the real CLI's: an unknown flag, a profile
# that assumes a role, an answer that it can't explain. curl's own --aws-sigv4 is not used: before 8.9 it signs some keys
# wrong, and the curl of Ubuntu 22.04 does not sign x-amz-content-sha256, which S3 wants.
# No secret is on a command line: curl reads its headers from stdin. Nothing is sent to an address from an answer.
# shellcheck disable=SC2034

given=("$@") # for the real CLI, as is the environment
declare -A environment_was
for name in LC_ALL TZ; do
  [[ -z ${!name+x} ]] || environment_was[$name]=${!name}
done
