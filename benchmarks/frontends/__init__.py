"""Models of four frameworks, imported, compared and trained: ``python -m benchmarks.frontends`` (``make frontends``)."""
