"""What `make benchmark` measures: Opsin beside bare PyTorch and beside common practice, in one session."""
