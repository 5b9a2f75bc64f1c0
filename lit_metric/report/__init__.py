"""One page that shows what a run learned, what it mined and what is wrong with its data."""
