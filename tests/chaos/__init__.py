"""Chaos: random calls under random faults, and an account of every item."""
