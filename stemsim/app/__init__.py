"""The page: a local web server over one library, with sliders that are heard at once, and its HTTP API."""
