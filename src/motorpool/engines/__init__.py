"""Where workers live. Engines do not know each other; each keeps the contract in `base.py`."""
