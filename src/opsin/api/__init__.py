"""The Python API: `opsin.load`, `opsin.train` and `opsin.compare`."""
