"""The explorer: a page on loopback to play with convolutions, and with the networks of runs."""
