"""Pages that open offline: from files in a folder to one HTML file, nothing requested."""
