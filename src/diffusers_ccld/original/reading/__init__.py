"""Reads the original's files without running code from them. Only these modules unpickle."""
