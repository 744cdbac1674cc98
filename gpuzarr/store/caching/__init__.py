"""Caches before another store: of encoded bytes, as they were asked for.

opening   what a user says → a store that has them
store     CachedStore            answers   the one read path: planned, asked, judged
trust     which version an object is of: once, always, never      ranges   which kept span answers a request
memory    disk, file, usage      the caches themselves            stats    what they were good for
"""
