"""The roles of a node: what it does besides being there."""
