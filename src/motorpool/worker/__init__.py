"""The child half: all that a worker process imports. It imports nothing of the parent's."""
