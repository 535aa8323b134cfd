"""A soak: load of every kind for some time, and afterwards nothing of it may be left."""
