"""Mistakes of lectures, made on purpose, to measure their cost; `OPSIN_TARGETS=benchmarks` permits them in a config."""
