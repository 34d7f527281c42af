"""What a model costs to serve, and which architectures are known."""
