"""Every place Python code is run from, and what a pool must do there."""
