"""A run held against its controls: dense, DiLoCo, a flat mixture of experts."""
