"""What instances cost: prices, costs, and what EC2 has for sale."""
