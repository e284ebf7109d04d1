"""Which method at which layer: for a network of the user's, and all methods beside each other."""
