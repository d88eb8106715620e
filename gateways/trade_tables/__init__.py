"""Tables of trades of any engine: a map says which column is what, and a row becomes a close."""
