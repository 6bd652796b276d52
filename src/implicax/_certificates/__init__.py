"""How wrong a derivative is."""
