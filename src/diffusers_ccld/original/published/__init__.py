"""What is known of the published models."""
