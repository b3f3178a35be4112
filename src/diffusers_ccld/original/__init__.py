"""The original's file formats: reading them safely, and what their tensors are called here."""
