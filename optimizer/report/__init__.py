"""The report of one optimization: the data, and its text, JSON and HTML forms."""
