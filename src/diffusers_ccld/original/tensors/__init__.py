"""Tables from the original's tensor names to ours, and sizes from tensor shapes."""
