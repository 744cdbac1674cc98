"""Where bytes live. A store maps keys to bytes and knows nothing of arrays."""
