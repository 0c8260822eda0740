"""What runs where: the inventory, and where each cluster's placement comes from."""
