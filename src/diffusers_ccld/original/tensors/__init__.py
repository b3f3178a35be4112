"""What the original's tensors are called here, and how sizes are read off them."""
