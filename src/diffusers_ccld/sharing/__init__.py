"""What makes a folder fit for others: model cards, the Hub, code that travels along."""
