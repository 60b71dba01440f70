"""Scripts that train with other frameworks, run by `benchmarks.frameworks` in an environment with these frameworks."""
