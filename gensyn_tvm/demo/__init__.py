"""The demonstration: two models train on real data and give the same bits in every configuration."""
