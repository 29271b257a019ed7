"""One file per experiment: a function from named data to named results."""
