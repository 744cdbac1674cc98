"""Codecs, one a file. They turn stored bytes into chunks and back, and know no arrays, keys or stores."""
