"""Measures and compares models: metrics, judges, comparisons and their page, accuracy of schedulers."""
