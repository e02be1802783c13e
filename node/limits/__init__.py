"""Limits on what a node may do now, and the gate that asks them."""
