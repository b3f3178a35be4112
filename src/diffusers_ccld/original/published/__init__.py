"""Facts about the published models, and their cards."""
