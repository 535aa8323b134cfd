"""Benchmarks: ``python -m tests.bench NAME``. Nothing here is a test or asserts a time."""
