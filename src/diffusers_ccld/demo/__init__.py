"""A page in the browser to paint with."""
