"""Measurements of `make benchmark`: Opsin, bare PyTorch and common practice, interleaved in one session."""
