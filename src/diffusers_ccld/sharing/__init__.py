"""Sharing folders: model cards, uploads to the Hub, code for machines without this package."""
