"""Reports: findings and runs as people and other tools read them."""
