"""Reports: results of runs as files, terminal tables, pictures and one HTML page."""
