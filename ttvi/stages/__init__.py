"""The stages of a fit, each with its share of the budget and its reasons: explore, choose, train, split, cover, polish, certify."""
