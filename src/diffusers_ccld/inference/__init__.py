"""Painting with a trained model: devices, loading, speed, interpolation."""
