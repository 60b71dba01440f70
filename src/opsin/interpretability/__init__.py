"""What a network sees: convolutions by hand, kernels, activations, filters, and what a decision rests on."""
