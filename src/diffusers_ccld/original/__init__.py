"""The original's file formats: reading them safely, and converting them in both directions."""
