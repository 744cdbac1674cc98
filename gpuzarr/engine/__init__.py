"""Reads that run. `read` is the straight line; `host` works in bundles on threads, `device` in waves."""
