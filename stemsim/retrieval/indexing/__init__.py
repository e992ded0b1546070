"""Adding files to a library: found, prepared (hashed, tagged, cut), embedded, committed."""
