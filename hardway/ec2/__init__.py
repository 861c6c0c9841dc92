"""What EC2 describes and keeps: instances and selectors, tags, images, networks, security groups, the account."""
