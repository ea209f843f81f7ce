"""Documents that answers are drawn from: read in, cut up, searched by words and by meaning, quoted by source."""
