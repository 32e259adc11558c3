"""What tests share: one brute force, models, networks at random, pages."""
