"""What the scripts of training/ are made of."""
