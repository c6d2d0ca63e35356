"""Facts about the paper: what it prints, its two protocols, where the kit departs from it."""
