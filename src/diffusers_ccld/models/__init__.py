"""Networks: the U-Net, CLOOB's encoders, GumbelVQ."""
