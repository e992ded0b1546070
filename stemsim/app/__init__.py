"""The page: a library searched with sliders in a browser, and the same as an HTTP API."""
