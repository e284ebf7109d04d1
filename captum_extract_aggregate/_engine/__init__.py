"""One forward, one backward: where tensors are met, kept, and read, on a model that comes back as it was."""
