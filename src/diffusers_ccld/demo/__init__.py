"""A web page that samples from a model."""
