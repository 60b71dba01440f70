"""The explorer: a page on loopback to play with convolutions, and with the models of runs."""
