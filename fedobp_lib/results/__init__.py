"""Tables and frames from finished runs; nothing here trains or draws."""
