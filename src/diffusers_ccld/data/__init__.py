"""Images in: where they come from, how they are decoded, in which order they are met, what is kept of them."""
