"""Load on a running server, and what it makes of it: generator, figures, the search for the capacity, the page."""
