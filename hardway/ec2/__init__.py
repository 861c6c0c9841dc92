"""EC2's things: instances and selectors, tags, images, networks, security groups, the account."""
