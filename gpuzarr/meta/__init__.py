"""What arrays and groups are, read from the documents of every dialect."""
