"""The stages of a fit, each with its share of the budget and its reasons: explore, equilibrate, choose, train, split,
cover, bridge, polish, certify."""
