"""What to read, as a table of NumPy columns, computed without a Python loop over chunks.

plan_pieces     selection → chunks and where each part of them lands      (no I/O)
resolve_shards  chunks of shards → byte ranges                            (reads shard indexes)
coalesce        near ranges → fewer requests                              (no I/O)
"""
