"""Convolution by hand: kernels, Gabor filters, color spaces."""
