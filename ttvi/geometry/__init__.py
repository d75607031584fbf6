"""Where the mass of a density is, coordinates to build a train in, and densities seen through them."""
