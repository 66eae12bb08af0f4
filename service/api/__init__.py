"""HTTP: a route reads the request, calls one function, and returns its result."""
