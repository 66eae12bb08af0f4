"""How the HTML pages of both sides look: one file each that holds everything it shows."""
