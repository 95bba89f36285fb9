"""What `make bench` runs: ratios against the plain way of doing the same thing, medians of one run."""
