"""Parameters, multiply-adds and receptive fields of a network."""
