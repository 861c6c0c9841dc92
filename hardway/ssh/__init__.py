"""One instance, one connection: keys, host keys, proxies, and scripts that run to their last word."""
