"""Training: recipes, data, the loop, both stages and the weights folder they end in."""
