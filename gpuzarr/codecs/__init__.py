"""Codecs, one a file. They turn stored bytes into chunks and back, and know nothing of arrays, keys or stores."""
