"""Speed beside accuracy, side by side with peers in one run; `make bench` writes results as JSON."""
