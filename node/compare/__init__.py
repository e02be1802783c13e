"""Compares a run with its controls: dense, DiLoCo, a flat mixture of experts."""
