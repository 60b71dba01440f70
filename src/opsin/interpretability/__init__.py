"""Interpretation of networks: convolution by hand, kernels, activations, feature visualization, attribution."""
