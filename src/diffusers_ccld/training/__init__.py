"""Building blocks of the scripts in training/."""
